"""Recipes: which quantizers a UNet gets, what is reconstructed, and how; one per file."""

from dgq.recipes.custom import Custom
from dgq.recipes.dgq import DGQ
from dgq.recipes.mixdq import MixDQ
from dgq.recipes.ours import Ours
from dgq.recipes.presets import RECIPES, find_recipe
from dgq.recipes.qdiffusion import QDiffusion
from dgq.recipes.recipe import Recipe
from dgq.recipes.rtn import RTN
from dgq.recipes.tfmq import TFMQ

__all__ = [
    "DGQ",
    "RECIPES",
    "RTN",
    "TFMQ",
    "Custom",
    "MixDQ",
    "Ours",
    "QDiffusion",
    "Recipe",
    "find_recipe",
]
