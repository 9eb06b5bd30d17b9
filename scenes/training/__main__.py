"""Commands that make the embedded model, in this order.

python -m scenes.training clip          # text and image towers
python -m scenes.training autoencoder   # pictures to latents and back
python -m scenes.training latents       # latents and text states, computed once
python -m scenes.training diffusion     # the UNet
python -m scenes.training export        # folders for from_pretrained
python -m scenes.training measure       # table, grid and numbers
"""

import argparse
import dataclasses
from pathlib import Path

from scenes import ASSETS_DIR, GUIDANCE_SCALE, NUM_INFERENCE_STEPS
from scenes.training import autoencoder, clip, diffusion, latents
from scenes.training.export import export
from scenes.training.measure import measure, table
from scenes.training.settings import CPU, GPU, Settings

STAGES = ("clip", "autoencoder", "latents", "diffusion", "export", "measure")


def main(arguments: list[str] | None = None) -> None:
    """Run one stage."""
    options = _parser().parse_args(arguments)
    settings = GPU if options.device == "cuda" else CPU
    if options.minutes is not None:
        settings = _with_minutes(settings, options.stage, options.minutes)
    run(options, settings)


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Run the stage that the options name with the given settings."""
    work, device, resume = options.work, options.device, options.resume
    size = settings.image_size
    if options.stage == "clip":
        clip.train(settings.clip, size, work / "clip", device, resume)
    elif options.stage == "autoencoder":
        autoencoder.train(settings.autoencoder, size, work / "autoencoder", device, resume)
    elif options.stage == "latents":
        latents.prepare(settings.latents, size, work / "latents", device)
    elif options.stage == "diffusion":
        diffusion.train(settings.diffusion, work / "diffusion", device, resume)
    elif options.stage == "export":
        step = export(settings, work, options.assets)
        print(f"{options.assets}: pipeline (UNet after {step} steps) and clip")
    else:
        scales, steps = options.guidance_scale, NUM_INFERENCE_STEPS
        folder = options.assets / "pipeline"
        print(table(measure(folder, work / "measure", options.n, scales, steps, device)))


def _with_minutes(settings: Settings, stage: str, minutes: float) -> Settings:
    if stage not in ("clip", "autoencoder", "diffusion"):
        raise SystemExit(f"--minutes is for stages that train; {stage} does not")
    part = getattr(settings, stage)
    part = dataclasses.replace(part, fit=dataclasses.replace(part.fit, minutes=minutes))
    return dataclasses.replace(settings, **{stage: part})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scenes.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--minutes", type=float, help="another time budget for this stage")
    parser.add_argument("--work", type=Path, default=Path("outputs/scenes"), help="checkpoints")
    parser.add_argument("--assets", type=Path, default=ASSETS_DIR, help="where to export to")
    parser.add_argument("--n", type=int, default=512, help="test captions to measure with")
    parser.add_argument(
        "--guidance-scale", type=float, nargs="+", default=[GUIDANCE_SCALE], help="to measure with"
    )
    return parser


if __name__ == "__main__":
    main()
