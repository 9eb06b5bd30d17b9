"""Settings that a parser accepts, although they have no effect or would fail later."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace

from dgq.errors import DGQError

RECIPE = "model.recipe"
OPTIONS = f"{RECIPE}.init_args"
GROUPS = (
    *("model", "data", "trainer", "model.waiting", "data.generation"),
    *(RECIPE, f"{OPTIONS}.learning", f"{OPTIONS}.quantization"),
)
"""Options that consist of others."""

UNSEEDED = "Has no effect: --data.seed is the seed of prompts, noise and batches."


def check_seed_everything(seed: Any) -> None:
    """Raise DGQError for a seed that was chosen: nothing draws from the global generators."""
    if seed not in (0, False):
        raise DGQError(
            f"--seed_everything {seed} has no effect on a calibration: leave it out; --data.seed "
            "is the seed of prompts, noise and batches"
        )


def check_groups(config: Namespace) -> None:
    """Raise DGQError for null in place of options, and for options that no recipe has."""
    for name in GROUPS:
        if name in config and config[name] is None:
            raise DGQError(f"{name} is null, which is not an option: leave it out for its default")
    unknown = config.get(f"{RECIPE}.dict_kwargs")
    if unknown:
        raise DGQError(f"{RECIPE}.dict_kwargs: {', '.join(unknown)} is not an option of a recipe")


def check_recipe_options(args: Sequence[str], config: Namespace) -> None:
    """Raise DGQError for an option of one recipe that another one, given later, does not have.

    Args:
        args: arguments of the command line.
        config: what the parser made of them.
    """
    known = {"class_path", *(vars(config[OPTIONS]) if OPTIONS in config else ())}
    prefix = f"--{RECIPE}."
    for argument in args:
        option = argument.partition("=")[0].removeprefix(prefix).removeprefix("init_args.")
        name = option.partition(".")[0]
        if argument.startswith(prefix) and name not in known:
            kind = config[f"{RECIPE}.class_path"].rpartition(".")[2]
            raise DGQError(f"{prefix}{name} is not an option of {kind}: leave it out")
