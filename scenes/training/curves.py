"""Training curves of the models, drawn from the logs."""

import json
import math
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from scenes.training.export import LOGS

matplotlib.use("Agg")

_COLUMNS = 4
# The logged quantities that each stage's plot shows.
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
    n_rows = math.ceil(len(stages) / _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.4 * max(n_rows, 1)), layout="constrained")
    for i, stage in enumerate(stages):
        axes = figure.add_subplot(n_rows, _COLUMNS, i + 1)
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
