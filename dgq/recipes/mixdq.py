"""MixDQ (arXiv 2405.17873): mixed precision, and the text's start token in full precision."""

from dataclasses import dataclass, replace
from itertools import product

from dgq.mixed_precision.mixed_precision import Choice
from dgq.recipes.mixed import MixedRecipe
from dgq.recipes.recipe import KEPT, of_bits
from dgq.settings import (
    ActivationSettings,
    LearningSettings,
    QuantizationSettings,
    ScoreSettings,
    WeightSettings,
)

WEIGHT_BITS = (2, 4, 8)
ACTIVATION_BITS = (4, 8)


@dataclass(frozen=True)
class MixDQ(MixedRecipe):
    """Nearest rounding, one range per tensor; bits by sensitivity; the start token kept.

    Sensitivity is the squared error of the UNet's output, as for ``Ours``, not that of images.

    Args:
        weight_bits: mean over all weights.
        activation_bits: mean over the inputs of layers, weighted by multiply-accumulates.
        keep_start_token: the text's start token stays in full precision when ``to_k`` and ``to_v``
            read it.
        mixed: allocate bits by sensitivity; otherwise all layers have the same.
        keep: patterns (as in a shell) of the names of layers that stay in full precision.
    """

    weight_bits: int = 4
    activation_bits: int = 8
    keep_start_token: bool = True
    mixed: bool = True
    keep: tuple[str, ...] = KEPT

    @property
    def name(self) -> str:
        """``mixdq_`` and the mean bits."""
        return of_bits("mixdq_", self.weight_bits, self.activation_bits)

    @property
    def learning(self) -> LearningSettings:  # type: ignore[override]
        """Nothing is learned."""
        return LearningSettings(iterations=0, polish_iterations=0)

    @property
    def quantization(self) -> QuantizationSettings:
        """The same bits for all layers."""
        return QuantizationSettings(
            WeightSettings(self.weight_bits, "minmax"),
            ActivationSettings(
                self.activation_bits,
                n_groups=1,
                per_step=False,
                qkv=False,
                keep_start_token=self.keep_start_token,
            ),
            ScoreSettings(16),
            self.keep,
        )

    @property
    def uniform(self) -> Choice:
        """The same bits for all layers."""
        return Choice(self.quantization.weights, self.quantization.activations)

    @property
    def choices(self) -> list[Choice]:
        """All combinations of bits."""
        weights, activations = self.uniform.weights, self.uniform.activations
        return [
            Choice(replace(weights, n_bits=of_weight), replace(activations, n_bits=of_input))
            for of_weight, of_input in product(WEIGHT_BITS, ACTIVATION_BITS)
        ]
