"""Configs by name: looks up recipes, bits and models in ``configs/``; they also name the run.

A short name joins a recipe and bits: ``dgq_w4a6`` is ``recipes/dgq.yaml`` with ``bits/w4a6.yaml``.
"""

from collections.abc import Sequence
from contextlib import suppress
from os.path import isfile
from pathlib import Path
from typing import Any

import yaml

from dgq.command_line.options_file import check_options_file
from dgq.errors import DGQError

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES, BITS, MODELS = (CONFIGS / folder for folder in ("recipes", "bits", "models"))
CONFIG_OPTIONS = ("--config", "-c")
SECTIONS = ("model", "data", "trainer")
SECTION_OPTIONS = tuple(f"--{name}" for name in SECTIONS)


def resolve_configs(args: Sequence[str]) -> tuple[list[str], str]:
    """Look up bare config names in ``configs/``; a short name becomes two options.

    Returns:
        The arguments with paths in place of names, and the run's name.

    Raises:
        DGQError: for a config that is neither a file nor in ``configs/``, or holds no options, or
            one that is ignored.
    """
    resolved: list[str] = []
    found: list[Path] = []
    rest = list(args)
    while rest:
        argument = rest.pop(0)
        option, separator, name = argument.partition("=")
        if option in SECTION_OPTIONS and (separator or rest):
            check_section(option.removeprefix("--"), name if separator else rest[0])
        if option not in CONFIG_OPTIONS or not (separator or rest):
            resolved.append(argument)
            continue
        files = find_configs(name if separator else rest.pop(0))
        for file in files:
            check_config(file)
        found += files
        resolved += [f"{option}={file}" for file in files]
    return resolved, run_name(found)


def check_config(file: Path) -> None:
    """Raise DGQError unless a file holds options, all of which have an effect."""
    content = check_options_file(file, SECTIONS)
    if isinstance(content.get("fit"), dict):  # in a config that goes before the subcommand
        content = content["fit"]
    other = file.parent / str(content.get("config"))
    if isfile(other):  # the parser tells of one that is missing
        check_config(other)
    for name in SECTIONS:
        section = content.get(name)
        if isinstance(section, str):
            check_section(name, str(file.parent / section))
        elif section is not None:
            check_linked(name, section, str(file))
        if f"{name}.pipeline" in content:
            check_linked(name, {"pipeline"}, str(file))


def check_section(name: str, value: str) -> None:
    """Raise DGQError for options of a section, a file or YAML, that would have no effect."""
    if isfile(value):  # False also for a name that is too long
        check_linked(name, check_options_file(Path(value)), value)
        return
    with suppress(ValueError, yaml.YAMLError):  # the parser tells what is wrong
        check_linked(name, yaml.safe_load(value), f"--{name}")


def check_linked(name: str, section: Any, place: str) -> None:
    """Raise DGQError for an option that another one determines: a parser would ignore it."""
    if isinstance(section, dict | set) and "pipeline" in section:
        raise DGQError(
            f"{place}: {name}.pipeline would be ignored: give the pipeline once, by --pipeline or "
            "by a line `pipeline: ...` that is not indented"
        )


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
