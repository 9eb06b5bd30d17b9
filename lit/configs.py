"""Configs by name: bare names are looked up in ``configs/``, and name the run."""

from collections.abc import Sequence
from pathlib import Path

from dgq.errors import DGQError

CONFIGS = Path(__file__).parents[1] / "configs"
CONFIG_OPTIONS = ("--config", "-c")


def resolve_configs(args: Sequence[str]) -> tuple[list[str], str]:
    """Look bare config names up in ``configs/``.

    Returns:
        The arguments with paths in place of names, and the run's name: the configs' names joined.

    Raises:
        DGQError: for a config that is neither a file nor in ``configs/``.
    """
    resolved, names, expecting = [], [], False
    for arg in args:
        option, separator, value = arg.partition("=")
        if expecting or (separator and option in CONFIG_OPTIONS):
            path = find_config(arg if expecting else value)
            names.append(path.stem)
            resolved.append(str(path) if expecting else f"{option}={path}")
            expecting = False
        else:
            resolved.append(arg)
            expecting = arg in CONFIG_OPTIONS
    return resolved, "-".join(names) or "run"


def find_config(name: str) -> Path:
    """The file of a config: a path as it is, else a name in ``configs/``."""
    for candidate in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(path.name for path in CONFIGS.glob("*.yaml")))
    raise DGQError(f"no config {name}: it is not a file, and configs/ has {known}")
