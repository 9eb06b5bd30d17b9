"""The recipe with the best measurements at the same bits, which runs in integers throughout."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args

from dgq.math.exponents import OPERAND_BITS
from dgq.mixed_precision.mixed_precision import Choice, integer_choices
from dgq.recipes.mixed import MixedRecipe
from dgq.recipes.recipe import KEPT, of_bits
from dgq.settings import (
    ActivationSettings,
    Grouping,
    LearningSettings,
    NetworkSettings,
    QuantizationSettings,
    RangeMethod,
    ScoreSettings,
    WeightSettings,
    check_choice,
)

RangeSource = Literal["observed", "live", "residual"]
"""Sources of the ranges of activations."""

ABSORBED_ROOM = 4
"""Room, in bits, of multiples that weights of 8 bits absorb (docs/experiments.md)."""

MOST_ON_WEIGHTS = 2
"""Most spare bits that scales of weight groups take (docs/experiments.md)."""

WEIGHT_BITS = range(2, 9)
"""Bits of a layer's weight to choose from if bits are mixed."""

ACTIVATION_BITS = range(2, 9)
"""Bits of a layer's input to choose from if bits are mixed."""

LEARNED = 0.3
"""Approximate fraction of the nearest-rounding noise that remains after learning."""


@dataclass(frozen=True)
class Ours(MixedRecipe):
    """One integer product per layer: scales of groups and channels in the spare bits of 8.

    Weights have powers of two for groups of inputs, activations whole multiples for channels;
    attention computes in floating point on the outputs of integer layers. Weights of 8 bits absorb
    the multiples before they are rounded. With ``mixed``, bits are allocated by layer to minimize
    the noise of the output, at the size and bit operations of uniform bits.

    Args:
        weight_bits: 2 to 8, or 16 for floating point.
        activation_bits: the same for the inputs of layers.
        group_size: inputs that share a scale of the weights.
        range_method: ranges of the weights; ``minmax``, or ``mse`` for the best of 80 shrunk ones.
        mixed: measure how much each layer adds to the noise of the output, and allocate bits by it.
        ranges: ranges of activations: ``observed`` at each step; ``live``, per sample; or
            ``residual``, live ranges of the difference to the previous call.
        keep: patterns (as in a shell) of the names of layers that stay in full precision.
        learning: how weights and ranges are learned.
        network: how the UNet as a whole is learned after its targets; None skips this.
    """

    keeps_better: ClassVar[bool] = True

    weight_bits: int = 4
    activation_bits: int = 8
    group_size: int = 64
    range_method: RangeMethod = "mse"
    mixed: bool = True
    ranges: RangeSource = "observed"
    keep: tuple[str, ...] = KEPT
    learning: LearningSettings = field(default_factory=LearningSettings)
    network: NetworkSettings | None = field(default_factory=NetworkSettings)

    def choose_defaults_(self) -> None:
        """Choose the learning by the bits of activations."""
        check_choice("ranges", self.ranges, get_args(RangeSource))
        # Differences between calls need few bits, so ranges stay as observed.
        learned_for = 16 if self.ranges == "residual" else self.activation_bits
        self.choose_("learning", self.learning.with_ranges(learned_for))

    @property
    def name(self) -> str:
        """The bits, and the source of ranges unless they are observed."""
        name = of_bits("", self.weight_bits, self.activation_bits)
        return name if self.ranges == "observed" else f"{name}_{self.ranges}"

    @property
    def quantization(self) -> QuantizationSettings:
        """The same for all layers."""
        weights = symmetric_weights(self.weight_bits, self.group_size, self.range_method)
        activations = multiples(self.weight_bits, self.activation_bits, self.ranges)
        if self.absorbs:
            weights = replace(weights, absorbs=True)
            activations = replace(activations, max_exponent=ABSORBED_ROOM)
        return QuantizationSettings(weights, activations, ScoreSettings(16), self.keep)

    @property
    def measures(self) -> bool:
        """Whether bits are mixed: not if all operands already have an integer product's 8 bits."""
        return super().measures and not self.weight_bits == self.activation_bits == OPERAND_BITS

    @property
    def absorbs(self) -> bool:
        """Whether weights absorb multiples: if they have no spare bits, and inputs too few.

        If bits are mixed, layers with large inputs get fewer bits and so have spare ones.
        """
        spare = OPERAND_BITS - self.activation_bits
        full = self.weight_bits == OPERAND_BITS and 0 <= spare < ABSORBED_ROOM
        return full and self.ranges == "observed" and not self.measures

    @property
    def uniform(self) -> Choice:
        """Uniform bits without groups, whose exponents would add to the cost."""
        weights = WeightSettings(self.weight_bits, self.range_method, symmetric=True)
        return Choice(weights, self.quantization.activations)

    @property
    def choices(self) -> list[Choice]:
        """All choices that make a layer one integer product."""
        weights, activations = self.uniform.weights, self.uniform.activations
        groups = replace(weights, group_size=self.group_size, max_exponent=MOST_ON_WEIGHTS)
        return integer_choices(groups, activations, WEIGHT_BITS, ACTIVATION_BITS)

    @property
    def noise_left(self) -> float:
        """Below 1 if the rounding is learned."""
        return LEARNED if self.learning.iterations else 1.0


def symmetric_weights(
    n_bits: int, group_size: int, range_method: RangeMethod = "mse"
) -> WeightSettings:
    """Symmetric weights that use half of their spare bits, if any, for scales of groups."""
    exponent = weight_exponent(n_bits)
    return WeightSettings(
        n_bits,
        range_method,
        symmetric=True,
        group_size=group_size if exponent > 0 else 0,
        max_exponent=exponent,
    )


def multiples(weight_bits: int, activation_bits: int, ranges: RangeSource) -> ActivationSettings:
    """Activations whose channels' multiples use all spare bits that the weights leave."""
    if activation_bits == 16:
        return ActivationSettings(16, qkv=False)
    left = max(0, OPERAND_BITS - weight_bits) - weight_exponent(weight_bits)
    room = left + max(0, OPERAND_BITS - activation_bits)
    grouping: Grouping = "multiples" if ranges == "observed" else ranges
    return ActivationSettings(activation_bits, grouping, max_exponent=room, qkv=False)


def weight_exponent(n_bits: int) -> int:
    """Spare bits of weights that are used for scales of groups."""
    return min(MOST_ON_WEIGHTS, max(0, OPERAND_BITS - n_bits) // 2)
