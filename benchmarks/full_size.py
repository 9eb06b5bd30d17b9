"""Calibration at the size of Stable Diffusion 1.4 and SDXL, with random weights.

    python benchmarks/full_size.py --model sd14 --samples 16 --json PATH

Streams all samples through every target, learns a few iterations at the first, a middle and the
last resnet or transformer block, and prints memory, CPU seconds and an estimate for a whole
calibration. ``--stop-after`` ends earlier: memory grows with the samples, not with the targets.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from benchmarks.unet_configs import SD14, SDXL_TURBO, TINY
from dgq import LearningSettings, QuantizationSettings, WeightSettings, quantize_
from dgq.calibration import learning as learn
from dgq.calibration.unet_calls import UNetCalls
from dgq.devices import peak_bytes
from dgq.math.reconstruction import reconstruction_loss
from dgq.settings import WaitingSettings
from dgq.storage.files import write_json
from dgq.streams.paired_streams import PairedStreams
from dgq.streams.visit import Visit
from dgq.streams.waiting import waiting_places
from dgq.targets import Target, execution_order, find_blocks
from dgq.unet.call_rows import to_device
from dgq.unet.context import quantization
from dgq.unet.quantize import start_observing_

CONFIGS: dict[str, dict[str, Any]] = {"sd14": SD14, "sdxl": SDXL_TURBO, "tiny": TINY}
TIMESTEPS = (961, 641, 321, 1)
N_TOKENS = 77
ITERATIONS = 3
RECIPE = LearningSettings()


def main() -> None:
    """Print the figures, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=list(CONFIGS), required=True, help="size and structure")
    parser.add_argument("--samples", type=int, default=16, help="rows of UNet inputs")
    parser.add_argument("--batch-size", type=int, default=8, help="rows in a learning step")
    parser.add_argument("--micro-batch", type=int, default=4, help="rows that run at once")
    parser.add_argument("--place", default="disk", help="where samples wait: device, host, disk")
    parser.add_argument("--dtype", default="bfloat16", help="of samples: same, bfloat16, float16")
    parser.add_argument("--range-method", default="mse", help="ranges of weights: mse or minmax")
    parser.add_argument("--device", default="cpu", help="where the UNet runs")
    parser.add_argument("--mixed", action="store_true", help="compute in bfloat16 where it is safe")
    parser.add_argument("--stop-after", type=int, help="number of targets to pass (default: all)")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    options = parser.parse_args()
    Path("outputs").mkdir(exist_ok=True)  # on disk; the system's temporary folder may be in memory
    kind = torch.device(options.device).type
    with (
        tempfile.TemporaryDirectory(dir="outputs") as folder,
        torch.autocast(kind, torch.bfloat16, enabled=options.mixed),
    ):
        figures = measure(options, Path(folder))
    write_json(options.json, figures)
    Console().print_json(data={k: v for k, v in figures.items() if k != "targets"})


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Stream through the targets, learn at some of them, and extrapolate."""
    torch.manual_seed(0)
    with torch.device(options.device):
        unet = UNet2DConditionModel(**CONFIGS[options.model]).requires_grad_(False).eval()
    model_gib = peak_gib(options.device)
    calls = random_calls(unet, options.samples)
    settings = QuantizationSettings(WeightSettings(4, options.range_method))
    quantize_(unet, settings, calls.distinct_timesteps, calls.latent_size)
    start_observing_(unet)
    targets = ordered_targets(unet, settings, calls, options.device)
    places = waiting_places(WaitingSettings(options.place, options.dtype), unet, folder)
    pairs = torch.cartesian_prod(torch.arange(options.samples // 4), torch.arange(4)).flip(1)
    batches = [to_device(calls.batch(p), options.device) for p in pairs.split(options.micro_batch)]
    with Timer() as start:
        streams = PairedStreams(unet, targets, batches, places)
    rows: list[dict[str, Any]] = []
    chosen = some_blocks(list(targets), options.stop_after)
    stops = list(targets)[: options.stop_after]
    for name in track(stops, description=options.model):
        row = visit(streams, targets[name], options, name in chosen)
        waiting_gib = sum(f.stat().st_size for f in folder.iterdir()) / 2**30
        peak = {"peak_gib": peak_gib(options.device), "waiting_on_disk_gib": waiting_gib}
        n_weights = sum(w.numel() for w in weights_of(targets[name]))
        rows.append({"target": name, "n_weights": n_weights, **row, **peak})
    streams.close()
    return summary(options, unet, rows, start.seconds, model_gib)


def visit(
    streams: PairedStreams, target: Target, options: argparse.Namespace, learned: bool
) -> dict[str, float]:
    """Capture, search ranges, learn a few iterations if asked to, move on; returns seconds."""
    row: dict[str, float] = {}
    with Timer() as timer:
        streams.advance_reference()
    row["capture_s"] = timer.seconds
    with Timer() as timer:
        learn.start_learning_(target)
    row["range_search_s"] = timer.seconds
    if learned:
        with Timer() as timer:
            learn_some(streams, target, options.batch_size)
        row["iteration_s"] = timer.seconds / ITERATIONS
    learn.harden_(target)
    with Timer() as timer:
        streams.advance_quantized()
    row["observation_s"] = timer.seconds
    return row


def learn_some(streams: PairedStreams, target: Target, batch_size: int) -> None:
    """Run a few iterations of the recipe."""
    optimizer, _ = learn.make_optimizer(target.parts(), RECIPE)
    for iteration in range(ITERATIONS):
        rows = torch.randperm(streams.n_rows)[:batch_size]
        output = Visit(target, streams).output_and_reference(rows, activations=False)
        loss = reconstruction_loss(*output)
        (loss + learn.penalty(target, RECIPE.iterations // 2 + iteration, RECIPE)).backward()
        optimizer.step()
        optimizer.zero_grad()


def summary(
    options: argparse.Namespace,
    unet: UNet2DConditionModel,
    rows: list[dict[str, Any]],
    start_s: float,
    model_gib: float,
) -> dict[str, Any]:
    """Totals, and the estimated time of learning every target."""
    streamed = sum(row["capture_s"] for row in rows) + start_s / 2
    iterations = iteration_seconds(rows, options.batch_size / options.samples)
    return {
        "command": vars(options) | {"json": str(options.json)},
        "parameters": sum(p.numel() for p in unet.parameters() if p.numel()),
        "threads": torch.get_num_threads(),
        "targets_passed": len(rows),
        "capture_s": streamed,
        "observation_s": sum(row["observation_s"] for row in rows) + start_s / 2,
        "range_search_s": sum(row["range_search_s"] for row in rows),
        "learning_of_these_s": sum(iterations) * RECIPE.total_iterations,
        "model_gib": model_gib,
        "waiting_on_disk_gib": max(row["waiting_on_disk_gib"] for row in rows),
        "peak_gib": rows[-1]["peak_gib"],
        "peak_above_model_gib": rows[-1]["peak_gib"] - model_gib,
        "targets": rows,
    }


def weights_of(target: Target) -> list[Tensor]:
    """The quantized weights of a target."""
    return [w for layer in learn.layers_of(target) if isinstance(w := layer.weight, Tensor)]


def iteration_seconds(rows: list[dict[str, Any]], batch_share: float) -> list[float]:
    """Seconds of an iteration at each target, from those that were learned.

    An iteration costs a multiple of the time to run its batch once, plus a time per weight; both
    factors are fitted to the measured targets.

    Args:
        rows: figures of the targets, with ``iteration_s`` where it was measured.
        batch_share: fraction of the samples that an iteration runs.
    """
    costs = torch.tensor([[row["capture_s"] * batch_share, row["n_weights"]] for row in rows])
    measured = [index for index, row in enumerate(rows) if "iteration_s" in row]
    seconds = torch.tensor([[rows[index]["iteration_s"]] for index in measured])
    scale = costs.amax(0)
    factors = torch.linalg.lstsq(costs[measured] / scale, seconds).solution.clamp(min=0)
    estimated: list[float] = (costs / scale @ factors).flatten().tolist()
    return estimated


def some_blocks(names: list[str], stop_after: int | None) -> set[str]:
    """The first, the middle and the last of the resnet and transformer blocks that are passed."""
    blocks = [n for n in names[:stop_after] if "resnets" in n or "transformer_blocks" in n]
    return {blocks[0], blocks[len(blocks) // 2], blocks[-1]} if blocks else set()


def ordered_targets(
    unet: nn.Module, settings: QuantizationSettings, calls: UNetCalls, device: str
) -> dict[str, Target]:
    """Targets in execution order."""
    found = find_blocks(unet, settings.keep)
    call = to_device(calls.batch(torch.tensor([[0, 0]])), device)
    with quantization(unet, weights=False, activations=False):
        return {name: found[name] for name in execution_order(unet, found, call)}


def random_calls(unet: UNet2DConditionModel, n_samples: int) -> UNetCalls:
    """Calls of 4 steps without guidance, with the UNet's conditions."""
    config = unet.config
    n_prompts = n_samples // 4
    shape = (n_prompts, 1, N_TOKENS, config.cross_attention_dim)
    conditioning = {"encoder_hidden_states": torch.randn(shape)}
    if config.addition_embed_type == "text_time":
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        conditioning["added_cond_kwargs.text_embeds"] = torch.randn(n_prompts, 1, width)
        conditioning["added_cond_kwargs.time_ids"] = torch.randn(n_prompts, 1, 6)
    size = config.sample_size
    latents = torch.randn(len(TIMESTEPS), n_prompts, 4, size, size)
    return UNetCalls(latents, torch.tensor(TIMESTEPS), conditioning)


def peak_gib(device: str) -> float:
    """Peak memory in GiB so far: of the accelerator, or of this process."""
    return peak_bytes(device) / 2**30


class Timer:
    """CPU seconds of a block, or wall seconds if an accelerator computes."""

    seconds = 0.0

    def __enter__(self) -> "Timer":
        self._started = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._now() - self._started

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


if __name__ == "__main__":
    main()
