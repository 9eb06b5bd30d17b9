"""Recipes by name: those of this package at the bits that were measured.

The repository's command line composes the same recipes from ``configs/recipes`` and
``configs/bits``.
"""

from dgq.errors import SettingsError
from dgq.recipes.custom import Custom
from dgq.recipes.dgq import DGQ
from dgq.recipes.mixdq import MixDQ
from dgq.recipes.ours import Ours
from dgq.recipes.qdiffusion import QDiffusion
from dgq.recipes.recipe import Recipe
from dgq.recipes.rtn import RTN
from dgq.recipes.tfmq import TFMQ
from dgq.settings import QuantizationSettings

BITS = ((8, 8), (4, 8), (4, 6), (4, 5), (4, 4))
"""Pairs of bits, of weights and of activations."""

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *(Ours(*bits) for bits in (*BITS, (4, 16))),
        *(Ours(4, bits, ranges="live") for bits in (8, 6, 4)),
        *(Ours(4, bits, ranges="residual", mixed=False) for bits in (6, 4)),
        *(DGQ(*bits) for bits in BITS),
        *(RTN(*bits) for bits in BITS),
        *(QDiffusion(*bits) for bits in BITS),
        *(TFMQ(*bits) for bits in BITS),
        *(MixDQ(*bits) for bits in BITS[:2]),
    )
}


def find_recipe(recipe: str | Recipe | QuantizationSettings) -> Recipe:
    """The recipe with a name, or a recipe with given settings and default learning.

    Raises:
        SettingsError: for an unknown name, or anything else.
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
