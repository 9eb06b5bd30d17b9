"""The README's table of results: every recipe at every number of bits, calibrated and measured.

    python benchmarks/results.py

Calls train.py and evaluate.py as a user would, leaves out what is finished already, and writes
docs/results.md and docs/results.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BITS = ("w8a8", "w4a8", "w4a6", "w4a4")
RECIPES = {"rtn_": "RTN, per-tensor", "": "DGQ, 8 groups"}
COLUMNS = {
    "SQNR dB": ("sqnr_db", ".1f"),
    "PSNR dB": ("psnr", ".1f"),
    "FID": ("fid", ".2f"),
    "FID to FP": ("fid_to_full_precision", ".2f"),
    "CLIP score": ("clip_score", ".1f"),
    "IS": ("inception_score", ".2f"),
    "oracle mean": ("mean", ".3f"),
    "oracle all": ("all", ".3f"),
}


def main() -> None:
    """Calibrate, measure and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num-images", type=int, default=256, help="images (default: 256)")
    parser.add_argument(
        "--outputs", type=Path, default=Path("outputs"), help="where runs go (default: outputs)"
    )
    arguments = parser.parse_args()
    reports = {
        (bits, recipe): report_of(arguments.outputs / (recipe + bits), arguments.num_images)
        for bits in BITS
        for recipe in RECIPES
    }
    write(reports, arguments.num_images)


def report_of(run: Path, num_images: int) -> dict[str, Any]:
    """The metrics of one run, calibrated and measured first if that is not done yet."""
    manifest = run / "quantized" / "quantization.json"
    if not manifest.is_file():
        resume = ["--ckpt_path", "last"] if (run / "last.ckpt").is_file() else []
        call("train.py", "fit", "--config", f"{run.name}.yaml", "--run", str(run), *resume)
    output = run / f"evaluation-{num_images}"
    metrics = output / "metrics.json"
    if not is_newer(metrics, manifest):
        shared = run.parent / f"full-precision-{num_images}"
        call(
            *("evaluate.py", "--ckpt", str(run), "--num-images", str(num_images)),
            *("--output", str(output), "--full-precision-images", str(shared)),
        )
    report: dict[str, Any] = json.loads(metrics.read_text())
    return report


def is_newer(made: Path, source: Path) -> bool:
    """Whether a file is there and was made after its source."""
    return made.is_file() and made.stat().st_mtime > source.stat().st_mtime


def call(script: str, *arguments: str) -> None:
    """Run one of the project's scripts; its failure is ours."""
    print("python", script, *arguments, flush=True)
    subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True)


def write(reports: dict[tuple[str, str], dict[str, Any]], num_images: int) -> None:
    """Write the table and the numbers behind it."""
    content = {f"{recipe}{bits}": report for (bits, recipe), report in reports.items()}
    (ROOT / "docs" / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    lines = [
        f"Embedded model, n = {num_images} images; `python benchmarks/results.py "
        f"--num-images {num_images}` makes this table.",
        "",
        "| bits | recipe | " + " | ".join(COLUMNS) + " | GBOPs | MB |",
        "|---" * (len(COLUMNS) + 4) + "|",
        row("full precision", "", *halves(next(iter(reports.values())), "full_precision")),
    ]
    for (bits, recipe), report in reports.items():
        lines.append(row(bits.upper(), RECIPES[recipe], *halves(report, "quantized")))
    (ROOT / "docs" / "results.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def halves(report: dict[str, Any], which: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics and cost of the full-precision or the quantized pipeline."""
    metrics = report[which]
    return {**metrics, **metrics["oracle"]}, report["cost"][which]


def row(bits: str, recipe: str, metrics: dict[str, Any], cost: dict[str, Any]) -> str:
    """One line of the Markdown table."""
    cells = [bits, recipe]
    for key, digits in COLUMNS.values():
        value = metrics.get(key)
        cells.append("" if value is None else format(value, digits))
    cells += [f"{cost['bops'] / 1e9:.0f}", f"{cost['bytes'] / 1e6:.1f}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
