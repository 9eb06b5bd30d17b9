"""Configs by name: looks up recipes, bits and models in ``configs/``; they also name the run.

A short name joins a recipe and bits: ``dgq_w4a6`` is ``recipes/dgq.yaml`` with ``bits/w4a6.yaml``.
"""

from collections.abc import Sequence
from pathlib import Path

from dgq.command_line.options_file import check_options_file
from dgq.errors import DGQError

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES, BITS, MODELS = (CONFIGS / folder for folder in ("recipes", "bits", "models"))
CONFIG_OPTIONS = ("--config", "-c")
SECTIONS = ("model", "data", "trainer")


def resolve_configs(args: Sequence[str]) -> tuple[list[str], str]:
    """Look up bare config names in ``configs/``; a short name becomes two options.

    Returns:
        The arguments with paths in place of names, and the run's name.

    Raises:
        DGQError: for a config that is neither a file nor in ``configs/``, or holds no options.
    """
    resolved: list[str] = []
    found: list[Path] = []
    rest = list(args)
    while rest:
        argument = rest.pop(0)
        option, separator, name = argument.partition("=")
        if option not in CONFIG_OPTIONS or not (separator or rest):
            resolved.append(argument)
            continue
        files = find_configs(name if separator else rest.pop(0))
        for file in files:
            check_options_file(file, SECTIONS)
        found += files
        resolved += [f"{option}={file}" for file in files]
    return resolved, run_name(found)


def find_configs(name: str) -> list[Path]:
    """The files of a config: a path itself, a name in ``configs/``, or a recipe combined with bits.

    Raises:
        DGQError: if there is no such config.
    """
    stem = name.removesuffix(".yaml")
    candidates = (folder / f"{stem}.yaml" for folder in (CONFIGS, RECIPES, BITS, MODELS))
    for candidate in (Path(name), *candidates):
        if candidate.is_file():
            return [candidate]
    parts = stem.split("_")
    for cut in range(1, len(parts)):
        first, second = ("_".join(part) + ".yaml" for part in (parts[:cut], parts[cut:]))
        for files in ([RECIPES / first, BITS / second], [BITS / first, RECIPES / second]):
            if all(file.is_file() for file in files):
                return files
    raise DGQError(
        f"no config {name}: it is not a file, and configs/ has {known_names()}; "
        "a recipe and bits can be joined, as in dgq_w4a6"
    )


def known_names() -> str:
    """The names in ``configs/``, by folder."""
    kinds = {"recipes": RECIPES, "bits": BITS, "models": MODELS, "others": CONFIGS}
    names = {kind: sorted(f.stem for f in folder.glob("*.yaml")) for kind, folder in kinds.items()}
    return ", ".join(f"{kind} ({', '.join(stems)})" for kind, stems in names.items())


def run_name(files: Sequence[Path]) -> str:
    """The names of configs joined by dashes; a recipe and its bits as in their short name."""
    name, before = "", Path()
    for file in files:
        folder = file.resolve().parent
        joint = "_" if {before, folder} == {RECIPES.resolve(), BITS.resolve()} else "-"
        name = f"{name}{joint}{file.stem}" if name else file.stem
        before = folder
    return name or "run"
