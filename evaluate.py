"""Compare a quantized model with full precision: ``python evaluate.py --ckpt outputs/w4a8``."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dgq.errors import DGQError
from lit.console import print_error, quieten_libraries
from lit.evaluation import EvaluationSettings, evaluate


def main(argv: Sequence[str] | None = None) -> int:
    """Run an evaluation; returns the exit code: 0, or 2 after one line about bad input."""
    arguments = make_parser().parse_args(argv)
    quieten_libraries()
    try:
        evaluate(make_settings(arguments), Console())
    except DGQError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        print("evaluate.py: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def make_settings(arguments: Namespace) -> EvaluationSettings:
    """Typed and validated settings; raises DGQError."""
    return EvaluationSettings(**vars(arguments))


def make_parser() -> ArgumentParser:
    """The command line; its destinations are the fields of EvaluationSettings."""
    parser = ArgumentParser(
        prog="evaluate.py",
        description="Generate images in full precision and quantized, from the same seeds, and "
        "measure the difference. An interrupted run continues when called again.",
    )
    add = parser.add_argument
    add("--ckpt", type=Path, required=True, help="run folder of the quantized model")
    add("--output", type=Path, help="folder of the results (default: <ckpt>/evaluation)")
    add("--num-images", type=int, help="images (default: 256, or a shorter file of prompts)")
    add("--batch-size", type=int, default=16, help="images at once (default: %(default)s)")
    add("--seed", type=int, default=0, help="of prompts and noise (default: %(default)s)")
    add("--num-inference-steps", type=int, help="sampler steps (default: as calibrated)")
    add("--guidance-scale", type=float, help="guidance (default: as calibrated)")
    add(
        "--prompts",
        type=Path,
        help="text file with a prompt on each line, or COCO captions JSON "
        "(default: held-out captions of scenes)",
    )
    add(
        "--references",
        type=Path,
        help="folder of real images for FID (default: renders of other "
        "scenes, if the prompts are captions of scenes)",
    )
    add(
        "--pipeline",
        help="hub id or folder of the full-precision pipeline (default: the one "
        "that was calibrated)",
    )
    add("--clip", help="hub id or folder of the CLIP model that measures (default: the embedded)")
    add(
        "--sqnr-prompts",
        type=int,
        default=32,
        help="prompts on which the outputs of the UNets are compared (default: %(default)s)",
    )
    add(
        "--full-precision-images",
        type=Path,
        help="folder of the full-precision images, to share "
        "it between evaluations (default: <output>/images/full_precision)",
    )
    add("--device", help="torch device (default: a GPU if there is one, else the CPU)")
    add(
        "--overwrite",
        action="store_true",
        help="delete images in --output that were made with "
        "other settings (default: stop with an error)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
