"""A picture of how the models came about, from the training logs."""

import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from scenes.training.export import LOGS

matplotlib.use("Agg")

# What each stage's curve shows, beside its loss.
_QUANTITIES = {
    "clip": ("retrieval", "contrast"),
    "measuring-clip": ("retrieval", "loss"),
    "xl-clip": ("retrieval", "contrast"),
    "autoencoder": ("psnr", None),
    "diffusion": ("mse", None),
    "xl": ("mse", None),
    "few-step": ("loss", None),
}


def draw_curves(assets: Path) -> None:
    """Draw the logs in `assets`/training into `assets`/training/curves.png."""
    logs = {path.stem: path for path in (assets / LOGS).glob("*.jsonl")}
    stages = [stage for stage in _QUANTITIES if stage in logs]
    figure = Figure(figsize=(3.2 * max(len(stages), 1), 2.6), layout="constrained")
    for i, stage in enumerate(stages):
        axes = figure.add_subplot(1, len(stages), i + 1)
        lines = [json.loads(line) for line in logs[stage].read_text().splitlines()]
        steps = [line["step"] for line in lines]
        for quantity in _QUANTITIES[stage]:
            if quantity is not None:
                axes.plot(steps, [line[quantity] for line in lines], label=quantity, lw=1)
        if "psnr" not in _QUANTITIES[stage]:
            axes.set_yscale("log")
        axes.set(title=stage, xlabel="step")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(assets / LOGS / "curves.png", dpi=80)
