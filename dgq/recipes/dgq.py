"""DGQ as published: groups of activations by distribution, logarithmic scores (2501.04304)."""

from dataclasses import dataclass, field

from dgq.recipes.recipe import KEPT, Recipe, of_bits
from dgq.settings import (
    FEW_BITS,
    ActivationSettings,
    LearningSettings,
    Maximum,
    QuantizationSettings,
    RangeMethod,
    ScoreMethod,
    ScoreSettings,
    WeightSettings,
    check_bits,
)


@dataclass(frozen=True)
class DGQ(Recipe):
    """K-means groups of channels or pixels per step, log scores that keep ``<start>``.

    Args:
        weight_bits: 2 to 8, or 16 for floating point.
        activation_bits: the same for layer inputs, q, k and v.
        score_bits: the same for attention scores; by default those of the activations.
        n_groups: groups of activations; 1 is per-tensor.
        per_step: one set of ranges for each sampler step; otherwise one for all of them.
        cross_attention: ``log`` (powers of two under the live maximum) or ``affine`` scores.
        self_attention: the same choice for self-attention; by default ``affine`` above 4 bits,
            where it is better, and ``log`` for fewer.
        keep_start_token: keep the ``<start>`` token's key and scores in full precision.
        maximum: reference of the powers of two: the maximum of each sample (``live``), or the
            largest of the calibration samples at each step (``calibrated``).
        range_method: ranges of the weights; ``minmax``, or ``mse`` for the best of 80 shrunk ones.
        keep: patterns (as in a shell) of the names of layers that stay in full precision.
        learning: how weights and ranges are learned; as published with ``published.yaml``.
    """

    weight_bits: int = 4
    activation_bits: int = 8
    score_bits: int | None = None
    n_groups: int = 8
    per_step: bool = True
    cross_attention: ScoreMethod = "log"
    self_attention: ScoreMethod | None = None
    keep_start_token: bool = True
    maximum: Maximum = "live"
    range_method: RangeMethod = "mse"
    keep: tuple[str, ...] = KEPT
    learning: LearningSettings = field(default_factory=LearningSettings)

    def choose_defaults_(self) -> None:
        """Choose the method of self-attention, and the learning, by the bits."""
        check_bits("scores.n_bits", self.bits_of_scores)
        few = self.bits_of_scores <= FEW_BITS
        self.choose_("self_attention", self.self_attention or ("log" if few else "affine"))
        self.choose_("learning", self.learning.with_ranges(self.activation_bits))

    @property
    def name(self) -> str:
        """``dgq_`` and the bits."""
        return of_bits("dgq_", self.weight_bits, self.activation_bits)

    @property
    def quantization(self) -> QuantizationSettings:
        """The same for all layers."""
        assert self.self_attention is not None  # chosen when the recipe was made
        return QuantizationSettings(
            WeightSettings(self.weight_bits, self.range_method),
            ActivationSettings(
                self.activation_bits, n_groups=self.n_groups, per_step=self.per_step
            ),
            ScoreSettings(
                *(self.bits_of_scores, self.cross_attention, self.self_attention),
                *(self.keep_start_token, self.maximum),
            ),
            self.keep,
        )

    @property
    def bits_of_scores(self) -> int:
        """The bits of the activations unless set."""
        return self.activation_bits if self.score_bits is None else self.score_bits
