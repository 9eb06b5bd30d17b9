"""Images of selected models, drawn and measured by evaluate.py."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation.cells import Cell
from benchmarks.ablation.runs import model_of
from benchmarks.scripts import call

CHOSEN = ("RTN", "DGQ, our weight learning", "ours")
"""Rows of the main table whose images are drawn, with the first seed."""


def drawn(cells: Sequence[Cell], outputs: Path, num_images: int) -> list[dict[str, Any]]:
    """Metrics of full precision and selected models, model by model; images are kept."""
    found: list[dict[str, Any]] = []
    for model in dict.fromkeys(cell.calibration.model for cell in cells):
        chosen = [c for c in chosen_of(cells) if c.calibration.model == model]
        if chosen:
            report = evaluated(model, [model_of(c, outputs) for c in chosen], outputs, num_images)
            labels = ["full precision", *(f"{c.bits.upper()}, {c.row}" for c in chosen)]
            for label, figures in zip(labels, report["models"], strict=True):
                metrics = figures["metrics"]
                label = f"`{model}`, {label}"
                found.append({"label": label, "num_images": num_images, "metrics": metrics})
    return found


def chosen_of(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of the main table whose images are drawn: those of the first seed."""
    main = [cell for cell in cells if cell.stage == "main" and cell.row in CHOSEN]
    first = min((cell.calibration.seed for cell in main), default=0)
    return [cell for cell in main if cell.calibration.seed == first]


def evaluated(model: str, folders: Sequence[Path], outputs: Path, n: int) -> dict[str, Any]:
    """Compare models with evaluate.py; returns its report."""
    output = outputs / f"images-{model}-{n}"
    call(
        *("evaluate.py", "--protocol", "scenes", "--ckpt", *map(str, folders)),
        *("--num-images", str(n), "--output", str(output), "--overwrite"),
        *("--images", str(outputs / "images")),
    )
    report: dict[str, Any] = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    return report
