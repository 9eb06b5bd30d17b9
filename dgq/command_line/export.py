"""``python -m dgq export``: a quantized model for another engine."""

import argparse

from dgq.command_line.console import add_path, phase, print_line
from dgq.export.engines import ENGINES
from dgq.export.export import export

NAME = "export"
SUMMARY = "Write a quantized model in the format of another engine."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    engines = "; ".join(f"{name}: {engine.summary}" for name, engine in ENGINES.items())
    add_path(parser)
    parser.add_argument("--to", required=True, choices=list(ENGINES), help=engines)
    parser.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="folder to write; it must not exist, unless it is an earlier export and --overwrite "
        "is given",
    )
    parser.add_argument(
        "--pipeline",
        action="store_true",
        help="for OpenVINO: also export text encoders, VAE, tokenizers and scheduler of the "
        "pipeline that the model was made from, so that optimum-intel can load the folder",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export in FOLDER"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the export and say what is in it.

    Raises:
        DGQError: if something is missing, in the way, or cannot be exported.
    """
    made = export(
        arguments.path,
        arguments.to,
        arguments.out,
        whole_pipeline=arguments.pipeline,
        overwrite=arguments.overwrite,
        phase=phase,
    )
    print_line(f"{made.folder}: {made.layers}; {made.n_bytes / 1e6:.1f} MB")
    if made.caution is not None:
        print_line(f"caution: {made.caution}")
