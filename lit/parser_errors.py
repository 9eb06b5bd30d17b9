"""Errors of the parser, rephrased in terms of what the user wrote."""

import re

from dgq import recipes
from dgq.errors import DGQError
from dgq.recipes import Recipe
from lit.trainer_options import DERIVED, LINKED

UNKNOWN_RECIPE = re.compile(
    r'(Parser key "model\.recipe":|--model\.recipe\.help:).*'
    r"(dot import path|no attribute|not correspond|instantiatable)",
    re.DOTALL,
)
"""jsonargparse's messages about a class that it cannot find."""


def explained(error: Exception) -> DGQError:
    """An error of Lightning or its parser in terms of what the user wrote."""
    text = str(error)
    if "--> trainer." in text:
        name = text.partition("--> trainer.")[2].partition(":")[0]
        reason = LINKED if name == "max_epochs" else DERIVED
        return DGQError(f"--trainer.{name} is not supported: {reason}")
    if UNKNOWN_RECIPE.match(text):
        found = re.search(r"Expected a path but (\S+)|path string: (\S+)", text)
        name = next(filter(None, found.groups())) if found else "model.recipe"
        return DGQError(f"{name} is not a recipe: expected one of {', '.join(recipe_names())}")
    return DGQError(text)


def recipe_names() -> list[str]:
    """Recipe classes that a config can name without their module."""
    kinds = (getattr(recipes, name) for name in recipes.__all__)
    return sorted(
        kind.__name__
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, Recipe) and kind is not Recipe
    )
