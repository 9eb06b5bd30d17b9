"""The command line of ``evaluate.py``: options from the settings' fields, presets from YAML.

It uses jsonargparse, as ``train.py`` does. Added by hand is what jsonargparse lacks: presets by
bare name, ``--num-images`` beside ``--num_images``, and flags that need no ``true``.
"""

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    Namespace,
)
from rich.console import Console

from dgq.command_line.console import check_arguments
from dgq.command_line.ending import exit_code
from dgq.command_line.options_file import check_options_file
from dgq.errors import DGQError
from evaluation.metrics.registry import choices
from evaluation.protocol import Protocol
from evaluation.run import evaluate
from evaluation.settings import EvaluationSettings

PROTOCOLS = Path(__file__).parents[1] / "configs" / "protocols"
PROTOCOL_OPTION = "--protocol"
HOW_TO_RESUME = "the same command resumes from here"
DEFAULT, CUSTOM = "default", "custom"
"""Names of protocols without a preset."""

FLAGS = ("--compile", "--overwrite", "--lpips", "--image_reward")
"""Options that act as flags, without a value."""

LISTS = ("--ckpt", "--seeds", "--metrics")
"""Options that take several values."""

CKPT_HELP = (
    "quantized models to compare: run folders, their Lightning checkpoints, or folders of "
    "quantized models; without any, only full precision is measured"
)
SEEDS_HELP = "seeds of the noise, one set of images for each; the first also draws scene captions"


def main(argv: Sequence[str]) -> int:
    """Run an evaluation; returns the exit code: 0, or 2 after one line about bad input."""

    def work() -> None:
        check_arguments(argv)
        settings = parse_settings(argv)
        evaluate(settings, Console(emoji=False), f"python evaluate.py {shlex.join(argv)}")

    return exit_code(work, HOW_TO_RESUME, "correct that and repeat the command: it resumes")


def parse_settings(argv: Sequence[str]) -> EvaluationSettings:
    """Parse the command line into validated settings.

    Raises:
        DGQError: for a value outside its domain.
        ArgumentError: for arguments that cannot be parsed.
    """
    arguments, names = resolve_protocols(normalise(argv))
    check_once(arguments)
    parsed = make_parser().parse_args(arguments)
    protocol = Protocol(**_values(parsed, Protocol))
    others = _values(parsed, EvaluationSettings)
    name = "-".join(names) or (DEFAULT if protocol == Protocol() else CUSTOM)
    return EvaluationSettings(**others, protocol=protocol, protocol_name=name)


def check_once(arguments: Sequence[str]) -> None:
    """Raise DGQError for a list in several options, of which the parser would use the last."""
    given = [argument.partition("=")[0] for argument in arguments]
    for option in LISTS:
        if given.count(option) > 1:
            raise DGQError(f"{option} is given twice: give all values after one {option}")


def make_parser() -> ArgumentParser:
    """The parser; its destinations are the fields of the two settings classes."""
    parser = ArgumentParser(
        prog="evaluate.py",
        description="Draw images in full precision and quantized, from the same seeds, and "
        "measure the difference. Repeat the command to resume an interrupted run.",
        exit_on_error=False,
    )
    parser.add_argument(
        PROTOCOL_OPTION,
        action=ActionConfigFile,
        help=f"preset ({', '.join(_presets())}) or a YAML file of options; options on the "
        "command line override it",
    )
    # Declared by hand to take several values after one option, without brackets.
    parser.add_argument("--ckpt", type=Path, nargs="+", default=[], help=CKPT_HELP)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help=SEEDS_HELP)
    names, explained = list(choices()), metrics_help()
    parser.add_argument("--metrics", nargs="+", choices=names, metavar="METRIC", help=explained)
    settings = {"ckpt", "protocol", "protocol_name"}
    parser.add_class_arguments(EvaluationSettings, None, skip=settings)
    parser.add_class_arguments(Protocol, None, skip={"seeds", "metrics"})
    return parser


def metrics_help() -> str:
    """Help text that lists each metric with the first line of its docstring."""
    each = "; ".join(f"{name}: {summary.rstrip('.')}" for name, summary in choices().items())
    return f"the only metrics to measure; by default all that apply. {each}"


def resolve_protocols(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Look up bare names of presets in ``configs/protocols``.

    Returns:
        The arguments, in which presets come first as paths so that other options override them, and
            the presets' names.

    Raises:
        DGQError: for a preset that is neither a file nor in that folder.
    """
    paths: list[Path] = []
    others: list[str] = []
    for argument in argv:
        option, separator, value = argument.partition("=")
        if option == PROTOCOL_OPTION and separator:
            paths.append(find_protocol(value))
        elif others and others[-1] == PROTOCOL_OPTION:
            others.pop()
            paths.append(find_protocol(argument))
        else:
            others.append(argument)
    presets = [f"{PROTOCOL_OPTION}={path}" for path in paths]
    return [*presets, *others], [path.stem for path in paths]


def find_protocol(name: str) -> Path:
    """The file of a preset: a path itself, else a name in ``configs/protocols``."""
    for candidate in (Path(name), PROTOCOLS / name, PROTOCOLS / f"{name}.yaml"):
        if candidate.is_file():
            check_options_file(candidate)
            return candidate
    raise DGQError(
        f"no protocol {name}: it is not a file, and configs/protocols has {', '.join(_presets())}"
    )


def _presets() -> list[str]:
    return sorted(path.name for path in PROTOCOLS.glob("*.yaml"))


def normalise(argv: Sequence[str], flags: Collection[str] = FLAGS) -> list[str]:
    """``--num-images`` becomes ``--num_images``, a bare ``--overwrite`` ``--overwrite=true``."""
    arguments = [
        re.sub(r"^--[\w-]+", lambda option: "--" + option[0][2:].replace("-", "_"), argument)
        for argument in argv
    ]
    following = [*arguments, ""][1:]
    return [
        f"{argument}=true" if argument in flags and after not in ("true", "false") else argument
        for argument, after in zip(arguments, following, strict=True)
    ]


def _values(parsed: Namespace, settings: type) -> dict[str, Any]:
    """The parsed values for the fields of a dataclass, with lists as tuples."""
    skipped = {"protocol", "protocol_name"}
    values = {f.name: parsed[f.name] for f in fields(settings) if f.name not in skipped}
    return {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
