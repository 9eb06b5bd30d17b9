"""Recipes by name, as the files of these names in the repository's ``configs/`` have them."""

from dgq.errors import SettingsError
from dgq.recipes.custom import Custom
from dgq.recipes.dgq import DGQ
from dgq.recipes.mixdq import MixDQ
from dgq.recipes.ours import Ours
from dgq.recipes.qdiffusion import QDiffusion
from dgq.recipes.recipe import Recipe
from dgq.recipes.rtn import RTN
from dgq.recipes.tfmq import TFMQ
from dgq.settings import LearningSettings, QuantizationSettings

LEARNED_RANGES = LearningSettings(activation_lr=0.05)
"""At 4 bits and fewer ranges of activations are learned too."""

BITS = ((8, 8), (4, 8), (4, 6), (4, 5))

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *(Ours(*bits) for bits in BITS),
        Ours(4, 4, learning=LEARNED_RANGES),
        *(Ours(4, bits, ranges="live") for bits in (8, 6)),
        Ours(4, 4, ranges="live", learning=LEARNED_RANGES),
        *(Ours(4, bits, ranges="residual", mixed=False) for bits in (6, 4)),
        Ours(4, 16),
        *(DGQ(*bits) for bits in BITS),
        DGQ(4, 4, self_attention="log", learning=LEARNED_RANGES),
        *(RTN(*bits) for bits in (*BITS, (4, 4))),
        *(QDiffusion(*bits) for bits in BITS),
        QDiffusion(4, 4, learning=LEARNED_RANGES),
        *(TFMQ(*bits) for bits in BITS),
        TFMQ(4, 4, learning=LEARNED_RANGES),
        *(MixDQ(*bits) for bits in ((8, 8), (4, 8))),
    )
}


def find_recipe(recipe: str | Recipe | QuantizationSettings) -> Recipe:
    """The recipe of a name, or around settings, which are then learned as by default.

    Raises:
        SettingsError: for an unknown name, or something else.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, QuantizationSettings):
        return Custom(recipe)
    if isinstance(recipe, str) and recipe in RECIPES:
        return RECIPES[recipe]
    raise SettingsError(
        f"recipe {recipe!r} is not known: expected one of {', '.join(RECIPES)}, or a dgq.Recipe"
    )
