"""How inputs of layers, and q, k and v of attention, are quantized."""

from dataclasses import dataclass
from typing import Literal, get_args

from dgq.settings.bits import check_bits
from dgq.settings.checks import check_choice, check_positive, check_whole
from dgq.settings.types import check_types

Grouping = Literal["kmeans", "exponents", "multiples", "live", "residual"]
LIVE: tuple[Grouping, ...] = ("live", "residual")
"""Groupings whose scales come from each sample."""


@dataclass(frozen=True)
class ActivationSettings:
    """Affine quantization of layer inputs and of attention's q, k and v (paper, section 4.1).

    Args:
        n_bits: 2 to 8, or 16 to keep activations in floating point.
        grouping: ``kmeans`` for groups with free scales along the axis where the outliers lie, as
            published; ``exponents`` for channels whose scales differ by powers of two, so that a
            layer is one integer product; ``multiples`` for whole multiples of one scale, which is
            finer below 8 bits; ``live`` for the same with the scale and the zero points of each
            sample's own range, independent of the step; ``residual`` for the same, applied to
            the difference from the previous call, which layers add to their output of that call.
        n_groups: groups of ``kmeans``; 1 is per-tensor.
        max_exponent: scales of ``exponents`` are a step's times ``2^-k``, with ``k`` from 0 to this
            for each channel; scales that are multiples have the same range, up to
            ``2^max_exponent``. 0 leaves each channel only a zero point of its own.
        per_step: one set of ranges for each sampler step; otherwise one for all steps. ``live`` and
            ``residual`` use them to choose their multiples.
        qkv: quantize q, k and v inside attention too; otherwise they stay in floating point.
        keep_start_token: the text's ``<start>`` token stays in full precision when ``to_k`` and
            ``to_v`` read it.
    """

    n_bits: int = 8
    grouping: Grouping = "kmeans"
    n_groups: int = 8
    max_exponent: int = 2
    per_step: bool = True
    qkv: bool = True
    keep_start_token: bool = False

    def __post_init__(self) -> None:
        check_bits("activations.n_bits", self.n_bits)
        check_choice("activations.grouping", self.grouping, get_args(Grouping))
        check_positive("activations.n_groups", self.n_groups)
        check_whole("activations.max_exponent", self.max_exponent)
        check_types(self, "activations.")

    @property
    def follows_steps(self) -> bool:
        """Whether scales depend on the sampler step."""
        return self.n_bits < 16 and self.per_step and self.grouping not in LIVE
