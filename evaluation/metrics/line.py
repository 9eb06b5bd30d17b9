"""One number of a report: its name, its unit, and which way is better."""

from dataclasses import dataclass
from enum import IntEnum


class Better(IntEnum):
    """Which way a number changes for the better; the value is the sign of that change."""

    HIGHER = 1
    LOWER = -1
    CHEAPER = 0
    """Lower, and a change is shown as a ratio: "÷ 3.5"."""


@dataclass(frozen=True)
class Line:
    """A line of the table and of the report.

    Args:
        key: of the number in ``metrics.json``.
        label: what is measured, without the unit.
        better: which way is better.
        unit: as readers see it; empty for a plain number.
        digits: decimal places.
        scale: what readers see is the number times this: 1e-6 shows bytes as MB.
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
