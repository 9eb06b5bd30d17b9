"""The identity of a calibration, which a checkpoint must match to be resumed."""

import json
from dataclasses import asdict, fields
from typing import Any

from dgq.errors import DGQError
from dgq.recipes import Recipe
from dgq.settings import LearningSettings
from dgq.storage.described_settings import described


def identity_of(recipe: Recipe, others: dict[str, Any]) -> str:
    """Everything that determines a calibration, as JSON.

    Args:
        recipe: what is quantized, what is reconstructed, and how.
        others: samples, weights and machine.
    """
    content: dict[str, Any] = {
        "recipe": {"kind": type(recipe).__name__, **options(recipe)},
        "quantization": described(recipe.quantization),
        "learning": effective(recipe.learning),
        "data": others,
    }
    if recipe.network is not None and recipe.visits_network:
        content["network"] = asdict(recipe.network)
    return json.dumps(content, sort_keys=True)


def options(recipe: Recipe) -> dict[str, Any]:
    """The plain options of a recipe, some of which its settings show only after it has measured."""
    values = {field.name: getattr(recipe, field.name) for field in fields(recipe)}  # type: ignore[arg-type]
    return {name: v for name, v in values.items() if isinstance(v, bool | int | str)}


def effective(learning: LearningSettings) -> dict[str, Any]:
    """The learning settings with an effect: none for the rounding if no iteration learns it."""
    settings = asdict(learning)
    unused = {"decay"} if learning.total_iterations == 0 else set()
    if learning.iterations == 0:
        unused |= {"rounding_lr", "scale_lr", "penalty", "warmup"}
    if learning.polish_iterations == 0:
        unused |= {"polish_lr", "activation_lr"}
    return {name: value for name, value in settings.items() if name not in unused}


def check_identity(saved: str, current: str) -> None:
    """Raise DGQError, naming a difference, unless a checkpoint was made with the same settings."""
    if saved != current:
        difference = first_difference(json.loads(saved), json.loads(current))
        raise DGQError(
            f"the checkpoint was made with other settings ({difference}): resume with the same "
            "ones, or start a new run with --run DIR"
        )


def first_difference(saved: Any, current: Any, name: str = "settings") -> str:
    """The first difference of two nested settings, by name, in words."""
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in sorted(saved.keys() | current.keys()):
            if saved.get(key) != current.get(key):
                return first_difference(saved.get(key), current.get(key), key)
    return f"{name}: {saved} then, {current} now"
