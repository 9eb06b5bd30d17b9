"""What a calibration costs and how well it learns, on a UNet with Stable Diffusion's structure.

    python benchmarks/calibration.py --json PATH [--quick]

These are whole calibrations, run as by ``dgq.calibrate`` and ``train.py fit``: rounding to nearest,
the published recipe, and ours. Then the recipes run on every fifth target alone, all with the same
inputs. W4, A8 with 8 groups, 64 samples over 4 steps; errors are those of 16 held-out samples.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from greenlet import getcurrent
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.ablation.stages import PUBLISHED
from benchmarks.outlier_unet import build_calls, build_unet
from benchmarks.single_targets import N_HELD_OUT_PROMPTS, N_PROMPTS, SAMPLING, single_targets
from dgq import (
    ActivationSettings,
    LearningSettings,
    QuantizationSettings,
    WaitingSettings,
    WeightSettings,
    quantize_,
)
from dgq.calibration.calibrate import reconstruct_
from dgq.calibration.calibrator import Calibrator
from dgq.calibration.samples import samples_of_prompts
from dgq.command_line.console import quieten_libraries
from dgq.devices import peak_bytes
from dgq.recipes import Custom
from dgq.storage.files import write_json
from dgq.unet.context import context_of, quantization
from dgq.unet.quantize import start_observing_

KEPT = ("conv_in", "conv_out")
KEPT_WHEN_QUICK = (*KEPT, "time_embedding.*", "mid_block.*", "up_blocks.*", "down_blocks.[123].*")
NEAREST = LearningSettings(iterations=0, polish_iterations=0)


class CountingCalibrator(Calibrator):
    """Counts the rows that pass a target for other purposes than learning and measuring."""

    n_streamed = 0

    def quantize_(self, *arguments: Any) -> None:
        """Quantize, and count at every target from then on."""
        super().quantize_(*arguments)
        for target in self.targets.values():
            target.entrance.register_forward_hook(self._count)

    def _count(self, _target: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        streaming = getcurrent().parent is not None
        if streaming or context_of(self.unet).observing:
            self.n_streamed += output.shape[0]


def main() -> None:
    """Print the tables, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="fewer targets, under 3 minutes")
    parser.add_argument(
        "--published-iterations",
        type=int,
        default=1000,
        help="iterations of the published recipe on the single targets (published: 20000)",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    quieten_libraries()
    keep = KEPT_WHEN_QUICK if options.quick else KEPT
    recipes = {
        "nearest": NEAREST,
        "published, 1000": replace(PUBLISHED, iterations=1000),
        "ours": LearningSettings(),
    }
    whole = {name: calibrate(keep, settings) for name, settings in recipes.items()}
    name = f"published, {options.published_iterations}"
    recipes[name] = replace(PUBLISHED, iterations=options.published_iterations)
    content = {
        "settings": {name: asdict(settings) for name, settings in recipes.items()},
        "whole": whole,
        "single_targets": compare_targets(recipes, keep),
        "ranges_of_one_step_cpu_s": ranges_of_one_step(),
        "peak_rss_gib": peak_rss_gib(),
    }
    write_json(options.json, content)
    print_tables(content)


def calibrate(keep: tuple[str, ...], learning: LearningSettings) -> dict[str, Any]:
    """Run a whole calibration; returns seconds, SQNR and errors."""
    settings = QuantizationSettings(WeightSettings(4), ActivationSettings(8, n_groups=8), keep=keep)
    unet = build_unet().requires_grad_(False)
    calls = build_calls(N_PROMPTS + N_HELD_OUT_PROMPTS)
    samples = samples_of_prompts(calls, N_HELD_OUT_PROMPTS, SAMPLING)
    calibrator = CountingCalibrator(unet, Custom(settings, learning), SAMPLING.batch_size)
    started = time.process_time()
    reconstruct_(calibrator, samples, SAMPLING, WaitingSettings(), progress=True)
    n_rows = 4 * (N_PROMPTS + N_HELD_OUT_PROMPTS)
    n_targets = len(calibrator.targets)
    return {
        "cpu_s": time.process_time() - started,
        "phases_cpu_s": calibrator.seconds,
        "forwards_per_sample": calibrator.n_streamed / n_rows / n_targets,
        "n_targets": n_targets,
        "sqnr_db": calibrator.sqnr_db,
        "records": calibrator.records,
    }


def compare_targets(
    recipes: Mapping[str, LearningSettings], keep: tuple[str, ...]
) -> dict[str, dict[str, dict[str, float]]]:
    """Held-out error and CPU seconds of each recipe on every fifth target alone."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for target, learn in single_targets(keep):
        figures[target] = {}
        for name, settings in recipes.items():
            error, seconds = learn(settings)
            figures[target][name] = {"error": error, "cpu_s": seconds}
            Console().print(f"{target}: {name}: error {error:.4f}, {seconds:.1f} CPU s")
    return figures


@torch.no_grad()
def ranges_of_one_step() -> float:
    """CPU seconds to observe all activation ranges of 16 samples of one step at 32x32 latents."""
    calls = build_calls(16, latent_size=32)
    unet = build_unet()
    quantize_(unet, QuantizationSettings(), calls.distinct_timesteps, calls.latent_size)
    start_observing_(unet)
    batch = calls.batch(torch.tensor([[1, prompt] for prompt in range(16)]))
    started = time.process_time()
    with quantization(unet, weights=False, activations=False, observing=True):
        unet(**batch)
    return time.process_time() - started


def peak_rss_gib() -> float:
    """Peak memory of this process in GiB."""
    return peak_bytes("cpu") / 2**30


def print_tables(content: dict[str, Any]) -> None:
    """Print the figures as tables."""
    console = Console()
    console.print(whole_table(content["whole"]))
    console.print(targets_table(content["single_targets"]))
    console.print(
        f"activation ranges of one step, 16 samples at 32x32: "
        f"{content['ranges_of_one_step_cpu_s']:.2f} CPU s; peak RSS "
        f"{content['peak_rss_gib']:.2f} GiB"
    )


def whole_table(whole: Mapping[str, dict[str, Any]]) -> Table:
    """One row for each whole calibration."""
    phases = list(next(iter(whole.values()))["phases_cpu_s"])
    table = Table(
        "recipe", "targets", "SQNR W, dB", "SQNR W and A, dB", "forwards", "CPU s", *phases
    )
    for name, figures in whole.items():
        table.add_row(
            name,
            str(figures["n_targets"]),
            f"{figures['sqnr_db']['weights']:.2f}",
            f"{figures['sqnr_db']['all']:.2f}",
            f"{figures['forwards_per_sample']:.2f}",
            f"{figures['cpu_s']:.0f}",
            *(f"{figures['phases_cpu_s'][phase]:.1f}" for phase in phases),
        )
    return table


def targets_table(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Held-out error of each recipe on each single target, and the means."""
    recipes = list(next(iter(figures.values())))
    table = Table("target alone", *recipes)
    for target, row in figures.items():
        table.add_row(target, *(f"{row[recipe]['error']:.4f}" for recipe in recipes))
    for title, part in (("mean error", "error"), ("mean CPU s", "cpu_s")):
        means = [sum(row[r][part] for row in figures.values()) / len(figures) for r in recipes]
        table.add_row(title, *(f"{mean:.4f}" for mean in means))
    return table


if __name__ == "__main__":
    main()
