"""Rounding to nearest: what every other recipe has to beat."""

from dataclasses import dataclass

from dgq.recipes.recipe import KEPT, Recipe, affine_scores, of_bits
from dgq.settings import (
    ActivationSettings,
    LearningSettings,
    QuantizationSettings,
    WeightSettings,
)


@dataclass(frozen=True)
class RTN(Recipe):
    """Min-max weights rounded to nearest, one range per tensor for all steps.

    Args:
        weight_bits: 2 to 8, or 16 for floating point.
        activation_bits: the same for layer inputs, q, k and v.
        score_bits: the same for attention scores (affine); by default those of the activations.
        keep: patterns (as in a shell) of the names of layers that stay in full precision.
    """

    weight_bits: int = 4
    activation_bits: int = 8
    score_bits: int | None = None
    keep: tuple[str, ...] = KEPT

    @property
    def name(self) -> str:
        """``rtn_`` and the bits."""
        return of_bits("rtn_", self.weight_bits, self.activation_bits)

    @property
    def learning(self) -> LearningSettings:  # type: ignore[override]
        """Nothing is learned."""
        return LearningSettings(iterations=0, polish_iterations=0)

    @property
    def quantization(self) -> QuantizationSettings:
        """The same for all layers."""
        return QuantizationSettings(
            WeightSettings(self.weight_bits, "minmax"),
            ActivationSettings(self.activation_bits, n_groups=1, per_step=False),
            affine_scores(self.score_bits, self.activation_bits),
            self.keep,
        )
