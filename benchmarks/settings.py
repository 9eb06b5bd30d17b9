"""What it costs to run a quantized model with other settings than it was calibrated with.

    python benchmarks/settings.py --ckpt outputs/w4a8 outputs/w4a6

Draws held-out captions in full precision with other samplers, numbers of steps and sizes, gives
every recorded call to the quantized UNets, and writes the SQNR of their outputs, pooled over all
calls, to docs/reference/settings.md. Figures that settings.json holds are not measured again.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import scenes
from dgq.calibration.recording import by_name, generators
from dgq.command_line.console import print_error, quieten_libraries
from dgq.errors import DGQError
from dgq.math.reconstruction import decibels, noise_and_signal
from dgq.pipelines.inputs import call_arguments
from dgq.pipelines.loading import load_pipeline
from dgq.pipelines.schedulers import scheduler_like
from dgq.storage.checkpoint import GenerationSettings, Manifest, load_quantized_unet, read_manifest
from dgq.storage.files import read_json, write_json

ROOT = Path(__file__).parents[1]
SEED = 1234
NEAREST = "nearest calibrated timestep"
"""Words in the warning that a UNet gives for timesteps without scales."""


@dataclass(frozen=True)
class Setting:
    """How a pipeline is run.

    Args:
        scheduler: diffusers' class without ``Scheduler``; empty for the pipeline's own.
        steps: sampler steps.
        height: height of the image in pixels; 0 for the pipeline's own size.
        width: width of the image in pixels.
    """

    scheduler: str = ""
    steps: int = 25
    height: int = 0
    width: int = 0

    def generation(self, calibrated: GenerationSettings) -> GenerationSettings:
        """Generation settings for this setting, with the guidance of the calibrated ones."""
        size = {"height": self.height, "width": self.width} if self.height else {}
        return replace(calibrated, num_inference_steps=self.steps, **size)

    def __str__(self) -> str:
        size = f", {self.height}x{self.width} px" if self.height else ""
        return f"{self.scheduler or 'own sampler'}, {self.steps} steps{size}"


def settings_of(calibrated: GenerationSettings) -> list[Setting]:
    """The calibrated setting, then others: one thing changes at a time, then two."""
    n = calibrated.num_inference_steps
    if n < 10:
        return [Setting(steps=steps) for steps in (n, 1, 2, 8)] + [
            Setting("DDIM", n),
            Setting("LCM", n),
        ]
    own = [Setting(steps=steps) for steps in (n, 10, 50)]
    sizes = [(16, 16), (32, 64), (64, 64)]
    return [
        *own,
        *(Setting(name, n) for name in ("PNDM", "DDIM", "EulerDiscrete", "DPMSolverMultistep")),
        *(Setting(name, 10) for name in ("DDIM", "EulerDiscrete", "DPMSolverMultistep")),
        Setting("LCM", 8),
        *(Setting(steps=n, height=height, width=width) for height, width in sizes),
    ]


Recorded = list[tuple[dict[str, Any], Tensor]]
"""Keyword arguments of each call, and the UNet's output in full precision."""


@torch.no_grad()
def record(
    pipeline: Any, setting: Setting, generation: GenerationSettings, captions: int
) -> Recorded:
    """Draw held-out captions in full precision; returns the recorded calls.

    Raises:
        DGQError: for a scheduler that diffusers does not have.
    """
    found: Recorded = []

    def keep(unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        arguments = by_name(unet, args, kwargs) | {"return_dict": False}
        found.append((arguments, output[0]))

    own = pipeline.scheduler
    if setting.scheduler:
        kind = getattr(diffusers, f"{setting.scheduler}Scheduler", None)
        if kind is None:
            raise DGQError(f"diffusers has no {setting.scheduler}Scheduler")
        pipeline.scheduler = scheduler_like(kind, own)
    hook = pipeline.unet.register_forward_hook(keep, with_kwargs=True)
    try:
        prompts = scenes.sample_captions(captions, SEED, "test")
        arguments = call_arguments(pipeline, prompts, generation)
        noise = generators(0, captions, SEED)
        pipeline(**arguments, generator=noise, output_type="latent")
    finally:
        hook.remove()
        pipeline.scheduler = own
    return found


@torch.no_grad()
def measure(ckpt: str, recorded: Recorded) -> dict[str, float]:
    """SQNR of a quantized UNet's output over all calls and of the worst, and number of warnings.

    The UNet is reloaded, since each warns only once.
    """
    unet = load_quantized_unet(ckpt)
    sums = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for call, expected in recorded:
            sums.append(noise_and_signal(unet(**call)[0], expected))
    by_call = torch.stack(sums).double()
    return {
        "sqnr_db": decibels(*by_call.sum(0).tolist()),
        "worst_call_db": min(decibels(*pair) for pair in by_call.tolist()),
        "warnings": sum(NEAREST in str(warning.message) for warning in caught),
    }


def measured(
    ckpts: Sequence[str], settings: Sequence[Setting], captions: int, file: Path
) -> Iterator[dict[str, Any]]:
    """A row for each setting with the figures of each quantized model; written one by one."""
    known: dict[str, Any] = read_json(file) if file.is_file() else {}
    manifests = {ckpt: read_manifest(ckpt) for ckpt in ckpts}
    first = shared(manifests)
    pipeline = load_pipeline(first.pipeline)
    for setting in settings:
        keys = {c: f"{m.sha256[:16] or c} {captions} {setting}" for c, m in manifests.items()}
        missing = [ckpt for ckpt, key in keys.items() if key not in known]
        if missing:
            generation = setting.generation(first.generation)
            recorded = record(pipeline, setting, generation, captions)
            known |= {keys[ckpt]: measure(ckpt, recorded) for ckpt in missing}
            write_json(file, known)
        yield {"setting": setting, "models": {ckpt: known[key] for ckpt, key in keys.items()}}


def shared(manifests: dict[str, Manifest]) -> Manifest:
    """The manifest of the first model; raises DGQError if others have another pipeline."""
    (first, manifest), *others = manifests.items()
    for ckpt, other in others:
        if (other.pipeline, other.generation) != (manifest.pipeline, manifest.generation):
            raise DGQError(
                f"{ckpt} was made from another pipeline or sampler than {first}: measure them one "
                "after the other"
            )
    return manifest


def cells(row: dict[str, Any], calibrated: dict[str, Any]) -> list[str]:
    """A row of the table: the setting, each model's SQNR and its change, and the warnings."""
    found = row["models"]
    figures = [
        f"{figure['sqnr_db']:.1f} ({figure['sqnr_db'] - calibrated[ckpt]['sqnr_db']:+.1f})"
        for ckpt, figure in found.items()
    ]
    return [str(row["setting"]), *figures, str(max(f["warnings"] for f in found.values()))]


def page(names: Sequence[str], lines: Sequence[Sequence[str]], command: str, captions: int) -> str:
    """The Markdown page."""
    header = ["setting", *names, "warnings"]
    table = ["| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *lines)]
    return "\n".join(
        [
            "# Other samplers, steps and sizes",
            "",
            f"`{command}` writes this page: SQNR of the quantized UNet's output in dB, pooled over "
            f"all calls of {captions} held-out captions that were drawn in full precision with "
            "each setting. Models run as they do by default (`auto`). In brackets is the change "
            "from the first row, the setting of the calibration; part of it comes from inputs that "
            "are harder or easier. The last column is the largest number of warnings that a model "
            "gave about timesteps for which it has no scales; models whose scales do not depend on "
            "the step give none.",
            "",
            *table,
            "",
        ]
    )


def main(argv: Sequence[str]) -> int:
    """Measure, print and write; exit code 0, or 2 after one line about bad input."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/settings.py", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--ckpt", nargs="+", default=["outputs/w4a8"], help="finished runs")
    parser.add_argument("--captions", type=int, default=16, help="held-out captions (default: 16)")
    parser.add_argument("--quick", action="store_true", help="the first three settings only")
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs/reference", help="folder for the page"
    )
    arguments = parser.parse_args(argv)
    quieten_libraries()
    try:
        settings = settings_of(read_manifest(arguments.ckpt[0]).generation)
        settings = settings[:3] if arguments.quick else settings
        file = arguments.docs / "settings.json"
        names = [Path(ckpt).name for ckpt in arguments.ckpt]
        table, lines = Table("setting", *names, "warnings"), []
        calibrated: dict[str, Any] = {}
        for row in measured(arguments.ckpt, settings, arguments.captions, file):
            calibrated = calibrated or row["models"]
            lines.append(cells(row, calibrated))
            table.add_row(*lines[-1])
        command = f"python benchmarks/settings.py {' '.join(argv)}".strip()
        (arguments.docs / "settings.md").write_text(page(names, lines, command, arguments.captions))
    except DGQError as error:
        print_error(error)
        return 2
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
