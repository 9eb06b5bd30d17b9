"""Recipes by name: what is quantized, and how it is learned."""

from dataclasses import dataclass, field

from dgq.errors import SettingsError
from dgq.settings import (
    ActivationSettings,
    LearningSettings,
    QuantizationSettings,
    ScoreSettings,
    WeightSettings,
)

LEARNED_RANGES = LearningSettings(activation_lr=0.05)
NEAREST = LearningSettings(iterations=0, polish_iterations=0)


@dataclass(frozen=True)
class Recipe:
    """All that a calibration does to a UNet, whatever it is calibrated on.

    Args:
        quantization: what is quantized and how.
        learning: how weights and ranges are learned.
        name: for the report.
    """

    quantization: QuantizationSettings
    learning: LearningSettings = field(default_factory=LearningSettings)
    name: str = "custom"


def integer_recipe(activation_bits: int) -> Recipe:
    """4-bit weights and activations that multiply as integers; attention in floating point.

    Scales of weights (groups of 64 inputs, powers of two) and of activations (channels, whole
    multiples) fill the spare bits. Ranges of 4-bit activations are learned.
    """
    exponent = 10 - activation_bits
    return Recipe(
        QuantizationSettings(
            WeightSettings(4, symmetric=True, group_size=64, max_exponent=2),
            ActivationSettings(activation_bits, "multiples", max_exponent=exponent, qkv=False),
            ScoreSettings(16),
        ),
        LEARNED_RANGES if activation_bits <= 4 else LearningSettings(),
        f"w4a{activation_bits}",
    )


def published_recipe(weight_bits: int, activation_bits: int) -> Recipe:
    """DGQ as published: k-means groups for each step, logarithmic scores that keep ``<start>``.

    At 4 bits self-attention is logarithmic too, and ranges are learned.
    """
    few = activation_bits <= 4
    scores = ScoreSettings(activation_bits, self_attention="log" if few else "affine")
    return Recipe(
        QuantizationSettings(
            WeightSettings(weight_bits), ActivationSettings(activation_bits), scores
        ),
        LEARNED_RANGES if few else LearningSettings(),
        f"dgq_w{weight_bits}a{activation_bits}",
    )


def nearest_recipe(weight_bits: int, activation_bits: int) -> Recipe:
    """Rounding to nearest: min-max weights, one range for each tensor over all steps."""
    return Recipe(
        QuantizationSettings(
            WeightSettings(weight_bits, "minmax"),
            ActivationSettings(activation_bits, n_groups=1, per_step=False),
            ScoreSettings(activation_bits, "affine", keep_start_token=False),
        ),
        NEAREST,
        f"rtn_w{weight_bits}a{activation_bits}",
    )


BITS = ((8, 8), (4, 8), (4, 6), (4, 5), (4, 4))

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            QuantizationSettings(
                WeightSettings(8, symmetric=True),
                ActivationSettings(8, "multiples", max_exponent=0, qkv=False),
                ScoreSettings(16),
            ),
            name="w8a8",
        ),
        *(integer_recipe(bits) for bits in (8, 6, 5, 4)),
        Recipe(
            QuantizationSettings(WeightSettings(4), ActivationSettings(16), ScoreSettings(16)),
            name="w4a16",
        ),
        *(published_recipe(*bits) for bits in BITS),
        *(nearest_recipe(*bits) for bits in BITS),
    )
}
"""The same as the files of these names in the repository's ``configs/``."""


def find_recipe(recipe: str | Recipe | QuantizationSettings) -> Recipe:
    """The recipe of a name, or around settings, which are then learned as by default.

    Raises:
        SettingsError: for an unknown name, or something else.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, QuantizationSettings):
        return Recipe(recipe)
    if isinstance(recipe, str) and recipe in RECIPES:
        return RECIPES[recipe]
    raise SettingsError(
        f"recipe {recipe!r} is not known: expected one of {', '.join(RECIPES)}, or a dgq.Recipe"
    )
