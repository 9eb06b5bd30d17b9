"""The README's table of results: every recipe at every number of bits, calibrated and measured.

    python benchmarks/results.py

Calls train.py and evaluate.py as a user would, leaves out what is finished already, and writes
results.md and results.json into docs/, and a report to look at into outputs/results-256/.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dgq.checkpoint import has_model

ROOT = Path(__file__).parents[1]
BITS = ("w8a8", "w4a8", "w4a6", "w4a4")
RECIPES = {"rtn_": "RTN, per-tensor", "dgq_": "DGQ, 8 groups", "": "integers"}
COLUMNS = {
    "PSNR dB": ("psnr", ".1f"),
    "FID": ("fid", ".2f"),
    "FID to FP": ("fid_to_full_precision", ".2f"),
    "CLIP score": ("clip_score", ".1f"),
    "IS": ("inception_score", ".2f"),
    "oracle mean": ("oracle_mean", ".3f"),
    "oracle all": ("oracle_all", ".3f"),
}


def main() -> None:
    """Calibrate, measure and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num-images", type=int, default=256, help="images (default: 256)")
    parser.add_argument(
        "--outputs", type=Path, default=Path("outputs"), help="where runs go (default: outputs)"
    )
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs", help="where tables go (default: docs)"
    )
    arguments = parser.parse_args()
    runs = {recipe + bits: (bits, recipe) for bits in BITS for recipe in RECIPES}
    for name in runs:
        calibrate(arguments.outputs / name)
    report = evaluate([arguments.outputs / name for name in runs], arguments)
    write(report, list(runs.values()), arguments)


def calibrate(run: Path) -> None:
    """Calibrate a recipe, or go on with it, unless that is done."""
    if has_model(run / "quantized"):
        return
    resume = ["--ckpt_path", "last"] if (run / "last.ckpt").is_file() else []
    call("train.py", "fit", "--config", f"{run.name}.yaml", "--run", str(run), *resume)


def evaluate(runs: list[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """One comparison of all runs; images that are there already are not drawn again."""
    output = arguments.outputs / f"results-{arguments.num_images}"
    call(
        *("evaluate.py", "--protocol", "scenes", "--ckpt", *map(str, runs)),
        *("--num-images", str(arguments.num_images), "--output", str(output), "--overwrite"),
        *("--images", str(arguments.outputs / "images")),
    )
    report: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return report


def call(script: str, *arguments: str) -> None:
    """Run one of the project's scripts; its failure is ours."""
    print("python", script, *arguments, flush=True)
    subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True)


def write(
    report: dict[str, Any], recipes: list[tuple[str, str]], arguments: argparse.Namespace
) -> None:
    """Write the table and the numbers behind it."""
    n = arguments.num_images
    (arguments.docs / "results.json").write_text(json.dumps(report, indent=2) + "\n")
    lines = [
        f"Embedded model, n = {n} images; `python benchmarks/results.py --num-images {n}` makes "
        "this table.",
        "",
        "| bits | recipe | SQNR dB | " + " | ".join(COLUMNS) + " | GBOPs | MB |",
        "|---" * (len(COLUMNS) + 5) + "|",
    ]
    full, *quantized = report["models"]
    lines.append(row("full precision", "", full))
    for (bits, recipe), model in zip(recipes, quantized, strict=True):
        lines.append(row(bits.upper(), RECIPES[recipe], model))
    (arguments.docs / "results.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def row(bits: str, recipe: str, model: dict[str, Any]) -> str:
    """One line of the Markdown table."""
    sqnr = model["sqnr"] and model["sqnr"]["plain"]["mean_db"]
    cells = [bits, recipe, "" if sqnr is None else f"{sqnr:.1f}"]
    for key, digits in COLUMNS.values():
        estimate = model["metrics"].get(key)
        cells.append("" if estimate is None else format(estimate["value"], digits))
    cost = model["cost"]
    cells += [f"{cost['bops'] / 1e9:.0f}", f"{cost['bytes_on_disk'] / 1e6:.1f}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
