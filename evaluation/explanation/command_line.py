"""The command line of ``explain.py``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.embedded import benchmark_of_pipeline
from dgq.command_line.console import print_line
from dgq.command_line.ending import exit_code
from dgq.storage.checkpoint import read_manifest
from evaluation.explanation.explain import FOLDER, SEED, Request, explain

PROMPTS = (
    "a photo of two dogs on a beach",
    "a red bicycle in front of a blue door",
    "a small wooden boat on a lake at sunset",
    "a bowl of oranges on a kitchen table",
)
"""Prompts for models other than the embedded ones."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code: 0, or 2 after one line about bad input."""
    arguments = parse(argv)
    return exit_code(lambda: run(arguments), "the same command begins again")


def run(arguments: argparse.Namespace) -> None:
    """Draw the pictures, and print where they are."""
    request = Request(
        arguments.run,
        arguments.prompts or default_prompts(arguments.run),
        arguments.layers,
        arguments.n_layers,
        arguments.attention,
        arguments.steps,
    )
    explain(request)
    print_line(
        f"{arguments.run / FOLDER}: pictures of ranges, scores, sensitivity and costs; the report "
        f"of `python evaluate.py --ckpt {arguments.run}` shows them"
    )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python explain.py",
        description="Draw what a quantized model does: ranges and scales of its activations, "
        "attention scores, how much quality each part loses, and what it costs.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run: outputs/w4a8")
    parser.add_argument("--prompts", nargs="+", help="prompts to run the UNet on")
    parser.add_argument("--layers", nargs="+", default=(), help="layers whose ranges are shown")
    parser.add_argument(
        *("--n_layers", "--n-layers"),  # underscores as in all other commands
        type=int,
        default=4,
        help="without --layers, show the N worst (default: 4)",
    )
    parser.add_argument("--attention", help="cross-attention whose scores are shown")
    parser.add_argument(
        "--steps", type=int, default=4, help="sampler steps for the sensitivity (default: 4)"
    )
    return parser.parse_args(argv)


def default_prompts(run: Path) -> Sequence[str]:
    """Held-out prompts of the model's benchmark, else a few everyday prompts."""
    benchmark = benchmark_of_pipeline(read_manifest(run).pipeline)
    return PROMPTS if benchmark is None else benchmark.sample_prompts(len(PROMPTS), SEED, "test")
