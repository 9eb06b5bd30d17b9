"""Make the embedded models from nothing, stage by stage.

python -m scenes.training all                   # everything, on a CPU
python -m scenes.training all --device cuda     # the same on a GPU

The stages, in their order: clip (text and image towers), measuring-clip (its image tower tuned as a
judge), autoencoder, latents and conditions (pictures and captions encoded once), diffusion (the
UNet of Stable Diffusion's structure); the sibling of SDXL's structure with its second text
encoder: xl-clip, xl-conditions, xl, few-step; export (folders for from_pretrained), measure
(tables, pictures, curves).
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from scenes import ASSETS_DIR, GUIDANCE_SCALE
from scenes.training import (
    autoencoder,
    clip,
    conditions,
    diffusion,
    distillation,
    latents,
    measuring_clip,
)
from scenes.training.curves import draw_curves
from scenes.training.export import export
from scenes.training.measure import measure
from scenes.training.pipelines import euler, stable_diffusion, stable_diffusion_xl
from scenes.training.processes import run_in_processes
from scenes.training.settings import LARGE, SMALL, Settings


def main(arguments: list[str] | None = None) -> None:
    """Run one stage, or all of them."""
    options = parser().parse_args(arguments)
    settings = {32: SMALL, 64: LARGE}[options.size]
    try:
        run(options, settings)
    except (FileNotFoundError, FileExistsError) as error:
        sys.exit(f"error: {error}")


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Run the stage that the options name, or all, with the given settings."""
    stages = STAGES if options.stage == "all" else {options.stage: STAGES[options.stage]}
    for stage in stages.values():
        stage(settings, options)


def _clip(settings: Settings, options: argparse.Namespace) -> None:
    _train_clip("clip", settings.clip, settings, options)


def _xl_clip(settings: Settings, options: argparse.Namespace) -> None:
    _train_clip("xl-clip", settings.xl.clip, settings, options)


def _train_clip(
    stage: str, part: clip.Clip, settings: Settings, options: argparse.Namespace
) -> None:
    folder = options.work / stage
    clip.train(part, settings.image_size, folder, options.device, options.resume)


def _measuring_clip(settings: Settings, options: argparse.Namespace) -> None:
    source, folder = options.work / "clip" / "model", options.work / "measuring-clip"
    measuring_clip.train(
        settings.measuring_clip,
        settings.image_size,
        source,
        folder,
        options.device,
        options.resume,
    )


def _autoencoder(settings: Settings, options: argparse.Namespace) -> None:
    folder = options.work / "autoencoder"
    autoencoder.train(
        settings.autoencoder, settings.image_size, folder, options.device, options.resume
    )


def _latents(settings: Settings, options: argparse.Namespace) -> None:
    model, folder = options.work / "autoencoder" / "model", options.work / "latents"
    latents.prepare(settings.latents, settings.image_size, model, folder, options.device)


def _conditions(settings: Settings, options: argparse.Namespace) -> None:
    pipeline = stable_diffusion(options.work, unet=None).to(options.device)
    captions = latents.training_captions(settings.latents)
    conditions.prepare(pipeline, captions, options.work / "conditions")


def _xl_conditions(settings: Settings, options: argparse.Namespace) -> None:
    pipeline = stable_diffusion_xl(options.work, None, euler()).to(options.device)
    captions = latents.training_captions(settings.latents)
    conditions.prepare(pipeline, captions, options.work / "xl-conditions")


def _diffusion(settings: Settings, options: argparse.Namespace) -> None:
    _train_unet("diffusion", "conditions", settings.diffusion, options)


def _xl(settings: Settings, options: argparse.Namespace) -> None:
    _train_unet("xl", "xl-conditions", settings.xl.diffusion, options)


def _train_unet(
    stage: str, texts: str, part: diffusion.Diffusion, options: argparse.Namespace
) -> None:
    work, folder = options.work, options.work / stage
    run_in_processes(
        _n_processes(options),
        folder,
        diffusion.train,
        part,
        work / "latents",
        work / texts,
        folder,
        options.device,
        options.resume,
    )


def _few_step(settings: Settings, options: argparse.Namespace) -> None:
    work, folder = options.work, options.work / "few-step"
    run_in_processes(
        _n_processes(options),
        folder,
        distillation.train,
        settings.xl.distillation,
        settings.xl.diffusion.unet,
        work / "latents",
        work / "xl-conditions",
        work / "xl",
        folder,
        options.device,
        options.resume,
    )


def _n_processes(options: argparse.Namespace) -> int:
    return options.processes if options.device == "cpu" else 1


def _export(settings: Settings, options: argparse.Namespace) -> None:
    names = ", ".join(export(settings, options.work, options.assets))
    print(f"{options.assets}: {names}")


def _measure(settings: Settings, options: argparse.Namespace) -> None:
    print(measure(options.assets, options.n, options.guidance_scale, options.device))
    draw_curves(options.assets)


STAGES: dict[str, Callable[[Settings, argparse.Namespace], None]] = {
    "clip": _clip,
    "measuring-clip": _measuring_clip,
    "autoencoder": _autoencoder,
    "latents": _latents,
    "conditions": _conditions,
    "diffusion": _diffusion,
    "xl-clip": _xl_clip,
    "xl-conditions": _xl_conditions,
    "xl": _xl,
    "few-step": _few_step,
    "export": _export,
    "measure": _measure,
}


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
        "--processes", type=int, default=2, help="training processes on a CPU (default: 2)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with what --work holds; finished stages stay"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("outputs/scenes"),
        help="where training states are kept (default: outputs/scenes)",
    )
    parser.add_argument(
        "--assets", type=Path, default=ASSETS_DIR, help="where to export to (default: the shipped)"
    )
    parser.add_argument(
        "--n", type=int, default=512, help="held-out captions to measure with (default: 512)"
    )
    parser.add_argument(
        "--guidance-scale",
        type=float,
        nargs="+",
        default=[GUIDANCE_SCALE],
        help=f"guidance scales to measure the first pipeline with (default: {GUIDANCE_SCALE:g})",
    )
    return parser


if __name__ == "__main__":
    main()
