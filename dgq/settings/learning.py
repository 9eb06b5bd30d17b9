"""How rounding and ranges are learned, target by target."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from dgq.errors import SettingsError
from dgq.settings.bits import check_bits
from dgq.settings.checks import check_choice, check_not_negative
from dgq.settings.types import check_types

Decay = Literal["cosine", "constant"]

RATES = ("rounding_lr", "scale_lr", "polish_lr", "penalty")

FEW_BITS = 4
"""Up to this number of bits, observed ranges clip or waste too much to be kept."""

RANGE_LR = 0.05
"""Learning rate of ranges if activations have few bits."""


@dataclass(frozen=True)
class LearningSettings:
    """Learning of the rounding of weights, target by target (AdaRound, BRECQ).

    Formulas: docs/explanation/method.md.

    Args:
        iterations: steps that learn rounding, scales and biases together; 0 rounds to nearest.
        polish_iterations: steps after that with the rounding fixed, on scales, biases and the
            ranges of the activations, with everything quantized.
        rounding_lr: Adam's learning rate for the rounding.
        scale_lr: the same for the logarithm of the scales and for the biases.
        polish_lr: the same during the polish.
        activation_lr: the same for the ranges of the activations, relative to their width; 0 keeps
            the ranges that were observed, and activations unquantized while weights are learned. By
            default recipes that learn choose 0.05 for activations of 4 bits and fewer, and 0 else.
        decay: ``cosine`` lets each rate fall to 0, ``constant`` keeps it.
        penalty: weight of the term that drives each rounding to 0 or 1.
        warmup: fraction of the iterations without that term.
    """

    iterations: int = 200
    polish_iterations: int = 60
    rounding_lr: float = 0.4
    scale_lr: float = 0.02
    polish_lr: float = 0.005
    activation_lr: float | None = None
    decay: Decay = "cosine"
    penalty: float = 0.05
    warmup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("iterations", "polish_iterations", *RATES):
            check_not_negative(f"learning.{name}", getattr(self, name))
        check_not_negative("learning.activation_lr", self.range_lr)
        check_choice("learning.decay", self.decay, get_args(Decay))
        check_types(self, "learning.")
        if not 0 <= self.warmup < 1:
            raise SettingsError(f"learning.warmup must be in [0, 1), got {self.warmup}")

    @property
    def total_iterations(self) -> int:
        """Optimizer steps for each target."""
        return self.iterations + self.polish_iterations

    @property
    def learns_ranges(self) -> bool:
        """Whether the polish learns ranges of activations."""
        return self.polish_iterations > 0 and self.range_lr > 0

    @property
    def range_lr(self) -> float:
        """``activation_lr``, or 0 if it was not set."""
        return 0.0 if self.activation_lr is None else self.activation_lr

    def with_ranges(self, activation_bits: int) -> "LearningSettings":
        """These settings with ``activation_lr`` chosen by the activations' bits, unless set."""
        check_bits("activations.n_bits", activation_bits)
        if self.activation_lr is not None:
            return self
        return replace(self, activation_lr=RANGE_LR if activation_bits <= FEW_BITS else 0.0)
