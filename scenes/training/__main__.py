"""Train the embedded models from scratch, stage by stage.

python -m scenes.training all                   # everything, on a CPU
python -m scenes.training all --device cuda     # the same on a GPU

The stages, in order: clip (text and image towers), measuring-clip (its image tower tuned further
for metrics), autoencoder, latents and conditions (pictures and captions encoded once), diffusion
(the UNet with Stable Diffusion's structure); then the model with SDXL's structure and a second text
encoder: xl-clip, xl-conditions, xl, few-step; then export (folders for from_pretrained) and measure
(tables, pictures, curves).
"""

import argparse
import sys
from pathlib import Path

import torch

from scenes import GUIDANCE_SCALE
from scenes.training.settings import LARGE, SMALL, Settings
from scenes.training.stages import STAGES, run_stage


def main(arguments: list[str] | None = None) -> None:
    """Run one stage, or all of them."""
    options = parser().parse_args(arguments)
    settings = {32: SMALL, 64: LARGE}[options.size]
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: --device cuda: this machine or this torch has no CUDA device")
    try:
        run(options, settings)
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        sys.exit(f"error: {error}")


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Run the stage that the options name, or all, with the given settings."""
    for name in STAGES if options.stage == "all" else (options.stage,):
        run_stage(name, settings, options)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scenes.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=(*STAGES, "all"), help="what to do; see above")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--size", type=int, choices=(32, 64), default=32, help="side of the pictures (default: 32)"
    )
    parser.add_argument(
        "--processes", type=positive, default=2, help="training processes on a CPU (default: 2)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume from the states in --work; finished stages are kept",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("outputs/scenes"),
        help="where training states are kept (default: outputs/scenes)",
    )
    parser.add_argument(
        "--assets",
        type=Path,
        help="where to export to, and what to measure (default: assets in --work; the shipped "
        "models are in assets/scenes)",
    )
    parser.add_argument(
        "--n", type=positive, default=512, help="held-out captions to measure with (default: 512)"
    )
    parser.add_argument(
        "--guidance-scale",
        type=float,
        nargs="+",
        default=[GUIDANCE_SCALE],
        help=f"guidance scales to measure the first pipeline with (default: {GUIDANCE_SCALE:g})",
    )
    return parser


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


if __name__ == "__main__":
    main()
