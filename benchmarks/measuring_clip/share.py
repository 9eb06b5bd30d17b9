"""A share of right answers, and the bar that it is held to."""

from dataclasses import asdict, dataclass
from typing import Any

from scenes.intervals import wilson_interval


@dataclass(frozen=True)
class Share:
    """``hits`` of ``n`` questions, to be at least ``bar``; ``captions`` distinct ones asked."""

    hits: int
    n: int
    bar: float
    captions: int

    @property
    def value(self) -> float:
        """The share in [0, 1]."""
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, at 95 %."""
        return wilson_interval(self.value, self.n)

    @property
    def met(self) -> bool:
        """Whether the share itself, not its interval, is at the bar."""
        return self.value >= self.bar

    def as_json(self) -> dict[str, Any]:
        """Everything about it."""
        derived = {"value": self.value, "interval": self.interval, "met": self.met}
        return asdict(self) | derived
