"""TFMQ-DM: everything computed from the timestep is one target (arXiv 2311.16503)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from dgq.recipes.recipe import KEPT, Recipe, affine_scores, of_bits
from dgq.settings import (
    ActivationSettings,
    LearningSettings,
    QuantizationSettings,
    WeightSettings,
)
from dgq.targets import Target, find_blocks, find_time_path


@dataclass(frozen=True)
class TFMQ(Recipe):
    """Learned rounding; one range per tensor and step; the time path is one target.

    Errors of the time embedding affect every resnet. Therefore the embedding and its projections
    are learned first, as one target, against the full-precision projections at the sampler's
    timesteps; the resnets are learned without them.

    Args:
        weight_bits: 2 to 8, or 16 for floating point.
        activation_bits: the same for layer inputs, q, k and v.
        score_bits: the same for attention scores (affine); by default those of the activations.
        keep: patterns (as in a shell) of the names of layers that stay in full precision.
        learning: how weights and ranges are learned; as published with ``published.yaml``.
    """

    weight_bits: int = 4
    activation_bits: int = 8
    score_bits: int | None = None
    keep: tuple[str, ...] = KEPT
    learning: LearningSettings = field(default_factory=LearningSettings)

    def choose_defaults_(self) -> None:
        """Choose the learning by the bits of activations."""
        self.choose_("learning", self.learning.with_ranges(self.activation_bits))

    @property
    def name(self) -> str:
        """``tfmq_`` and the bits."""
        return of_bits("tfmq_", self.weight_bits, self.activation_bits)

    @property
    def quantization(self) -> QuantizationSettings:
        """The same for all layers."""
        return QuantizationSettings(
            WeightSettings(self.weight_bits),
            ActivationSettings(self.activation_bits, n_groups=1),
            affine_scores(self.score_bits, self.activation_bits),
            self.keep,
        )

    def targets(self, unet: nn.Module) -> Mapping[str, Target]:
        """The time path, and blocks without their projections of the time embedding."""
        keep = self.quantization.keep
        path, its_layers = find_time_path(unet, keep)
        return path | find_blocks(unet, keep, its_layers)
