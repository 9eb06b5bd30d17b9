"""Q-Diffusion: learned rounding, static ranges, skips quantized separately (arXiv 2302.04304)."""

from dataclasses import dataclass, field

from dgq.recipes.recipe import KEPT, Recipe, affine_scores, of_bits
from dgq.settings import (
    ActivationSettings,
    LearningSettings,
    QuantizationSettings,
    SkipReader,
    WeightSettings,
)


@dataclass(frozen=True)
class QDiffusion(Recipe):
    """Learned rounding from MSE ranges; one range per tensor for all steps.

    Where the up path concatenates a skip with the features from below, the values of both parts
    differ widely. Layers that read the result quantize both parts, and the parts of their weights,
    separately.

    Args:
        weight_bits: 2 to 8, or 16 for floating point.
        activation_bits: the same for layer inputs, q, k and v.
        score_bits: the same for attention scores (affine); by default those of the activations.
        split_skips: layers of resnets that quantize a skip separately: ``conv_shortcut``, which
            reads the concatenated tensor, and ``conv1``, which reads it after a norm.
        keep: patterns (as in a shell) of the names of layers that stay in full precision.
        learning: how weights and ranges are learned; as published with ``published.yaml``.
    """

    weight_bits: int = 4
    activation_bits: int = 8
    score_bits: int | None = None
    split_skips: tuple[SkipReader, ...] = ("conv1", "conv_shortcut")
    keep: tuple[str, ...] = KEPT
    learning: LearningSettings = field(default_factory=LearningSettings)

    def choose_defaults_(self) -> None:
        """Choose the learning by the bits of activations."""
        self.choose_("learning", self.learning.with_ranges(self.activation_bits))

    @property
    def name(self) -> str:
        """``qdiffusion_`` and the bits."""
        return of_bits("qdiffusion_", self.weight_bits, self.activation_bits)

    @property
    def quantization(self) -> QuantizationSettings:
        """The same for all layers."""
        return QuantizationSettings(
            WeightSettings(self.weight_bits),
            ActivationSettings(self.activation_bits, n_groups=1, per_step=False),
            affine_scores(self.score_bits, self.activation_bits),
            self.keep,
            split_skips=self.split_skips,
        )
