"""How weights are quantized."""

from dataclasses import dataclass
from typing import get_args

from dgq.errors import SettingsError
from dgq.math.range_search import RangeMethod
from dgq.settings.bits import check_bits
from dgq.settings.checks import check_choice, check_whole
from dgq.settings.types import check_types

LARGEST_EXPONENT = 255
"""The largest exponent that a byte holds."""


@dataclass(frozen=True)
class WeightSettings:
    """Affine quantization of the weights, per output channel or in groups with exponents.

    Args:
        n_bits: 2 to 8, or 16 to keep the weights in floating point.
        range_method: ``minmax``, or ``mse`` for the best of 80 shrunk ranges.
        symmetric: codes around a fixed zero point, ``2^(n_bits - 1)``, which leave one more bit to
            exponents; otherwise each output channel has a zero point of its own.
        group_size: inputs (along ``in, kh, kw``) that share an exponent; 0 for none.
        max_exponent: scales of groups are those of their output channel times ``2^-e``, with ``e``
            from 0 to this, which is at most 255.
        absorbs: multiply the weights by the multiples of their input's channels before
            quantization, so that multiples need no spare bits.
    """

    n_bits: int = 4
    range_method: RangeMethod = "mse"
    symmetric: bool = False
    group_size: int = 0
    max_exponent: int = 0
    absorbs: bool = False

    def __post_init__(self) -> None:
        check_bits("weights.n_bits", self.n_bits)
        check_choice("weights.range_method", self.range_method, get_args(RangeMethod))
        check_whole("weights.group_size", self.group_size)
        check_whole("weights.max_exponent", self.max_exponent)
        check_types(self, "weights.")
        if self.max_exponent > LARGEST_EXPONENT:
            raise SettingsError(
                f"weights.max_exponent must be at most {LARGEST_EXPONENT}, since exponents are "
                f"stored as bytes, got {self.max_exponent}"
            )
        if self.max_exponent > 0 and self.group_size == 0:
            raise SettingsError("weights.max_exponent needs groups: set weights.group_size, to 64")
        if self.absorbs and (self.group_size > 0 or not self.symmetric):
            raise SettingsError(
                "weights.absorbs needs symmetric weights without groups: set weights.symmetric to "
                "true and weights.group_size to 0"
            )

    @property
    def has_exponents(self) -> bool:
        """Whether groups of inputs have scales of their own."""
        return self.group_size > 0 and self.max_exponent > 0
