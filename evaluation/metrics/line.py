"""One number of a report: its name, its unit, and which way is better."""

from dataclasses import dataclass
from enum import IntEnum


class Better(IntEnum):
    """The direction in which a number is better; the value is the sign of such a change."""

    HIGHER = 1
    LOWER = -1
    CHEAPER = 0
    """Lower, and a change is shown as a ratio: "÷ 3.5"."""


@dataclass(frozen=True)
class Line:
    """A line of the table and of the report.

    Args:
        key: key of the number in ``metrics.json``.
        label: what is measured, without the unit.
        better: which direction is better.
        unit: unit as shown; empty for a plain number.
        digits: decimal places.
        scale: factor for display: 1e-6 shows bytes as MB.
    """

    key: str
    label: str
    better: Better
    unit: str = ""
    digits: int = 2
    scale: float = 1.0

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label
