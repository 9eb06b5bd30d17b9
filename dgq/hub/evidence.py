"""Measurements found beside a model: results of evaluations, and those of its calibration."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dgq.errors import DGQError
from dgq.storage.files import check_regular, read_json
from dgq.storage.manifest import is_number
from dgq.storage.model_files import REPORT_FILE

EVALUATION = "evaluation"
METRICS_FILE = "metrics.json"
CONFIG_FILE = "config.yaml"

LABELS = {
    "fid": ("FID to real images", 2),
    "kid": ("KID to real images", 5),
    "inception_score": ("Inception score", 2),
    "clip_score": ("CLIP score", 2),
    "image_reward": ("ImageReward", 3),
    "oracle_mean": ("oracle: mean of attributes", 3),
    "oracle_all": ("oracle: all attributes of an image right", 3),
    "fid_to_full_precision": ("FID to full precision", 2),
    "psnr": ("PSNR to full precision, dB", 1),
    "psnr_mean": ("PSNR to full precision, mean of images, dB", 1),
    "ssim": ("SSIM to full precision", 4),
    "lpips": ("LPIPS to full precision", 3),
}
"""Metrics of an evaluation that a card shows: label and decimal places."""


@dataclass(frozen=True)
class Row:
    """One metric.

    Args:
        label: label of the metric.
        full_precision: value with interval in full precision; empty if there is none.
        quantized: the same for the quantized model.
    """

    label: str
    full_precision: str
    quantized: str


@dataclass(frozen=True)
class Evidence:
    """Measurements found beside a model.

    Args:
        protocol: protocol of the evaluation; None if the model was not evaluated.
        rows: metrics of the evaluation.
        execution: how the model ran in the evaluation.
        config: configuration of the calibration; empty if unknown.
        report: report of ``dgq.calibrate``; empty if there is none.
    """

    protocol: Mapping[str, Any] | None = None
    rows: list[Row] = field(default_factory=list)
    execution: Mapping[str, Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


def evidence_beside(folder: Path, sha256: str) -> Evidence:
    """Measurements in the folder of a model, or in that of its run.

    Args:
        folder: folder of the model.
        sha256: hash of the model, by which evaluations name it.

    Raises:
        DGQError: if a file is damaged.
    """
    places = [folder, folder.parent]
    found = [each for place in places for each in evaluations(place / EVALUATION, sha256)]
    config = next((read_config(p / CONFIG_FILE) for p in places if is_file(p / CONFIG_FILE)), {})
    report = folder / REPORT_FILE
    calibration = read_json(report) if is_file(report) else {}
    if not isinstance(calibration, Mapping) or not is_number(calibration.get("sqnr_db", 0)):
        raise damaged(report)
    if not found:
        return Evidence(config=config, report=calibration)
    protocol, full, own = max(found, key=lambda each: each[0].get("num_images") or 0)
    return Evidence(protocol, list(rows_of(full, own)), own.get("execution"), config, calibration)


def evaluations(
    folder: Path, sha256: str
) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Protocol, full precision and the model in each evaluation of it, the newest one first."""
    files = sorted(folder.glob(f"*/{METRICS_FILE}"))
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True):
        content = read_json(file)
        try:
            models = {str(each["checkpoint_sha256"]): each for each in content["models"]}
            if sha256 in models:
                protocol, full = dict(content["protocol"]), dict(models["None"])
                check(protocol, full, models[sha256])
                yield protocol, full, dict(models[sha256])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(file) from error


def check(protocol: Mapping[str, Any], full: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError unless an evaluation has what a card needs."""
    list(rows_of(full, own))
    for name in ("sampler", "device", "prompts", "references", "num_inference_steps"):
        protocol[name]
    for name in ("seeds", "extractors"):
        iter(protocol[name])
    for name in ("num_images", "guidance_scale"):
        if not is_number(protocol[name]):
            raise ValueError(name)
    execution = own.get("execution")
    if execution is not None:
        execution["integer_layers"], execution["dtype"]


def rows_of(full: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[Row]:
    """The measured metrics, and the cost of the UNet."""
    for key, (label, digits) in LABELS.items():
        if own["metrics"].get(key) is not None:
            values = (estimate(each["metrics"].get(key), digits) for each in (full, own))
            yield Row(label, *values)
    sqnr = ((own.get("sqnr") or {}).get("plain") or {}).get("mean_db")
    if sqnr is not None:
        yield Row("SQNR of the UNet's output, mean over steps, dB", "", f"{sqnr:.1f}")
    costs = [each["cost"].get("bops") for each in (full, own)]
    if None not in costs:
        yield Row("GBOPs of a sampler step", *(f"{cost / 1e9:,.1f}" for cost in costs))


def estimate(found: Mapping[str, Any] | None, digits: int) -> str:
    """A value with its deviation over seeds and its 95 % interval, as text."""
    if found is None:
        return ""
    text = f"{found['value']:,.{digits}f}"
    text += "" if found["std"] is None else f" ± {found['std']:.{digits}f}"
    if found["interval"] is None:
        return text
    low, high = (f"{bound:,.{digits}f}" for bound in found["interval"])
    return f"{text} ({low} to {high})"


def read_config(file: Path) -> Mapping[str, Any]:
    """The configuration of a calibration; raises DGQError if the file holds none."""
    check_regular(file)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise damaged(file) from error
    if not isinstance(content, Mapping):
        raise damaged(file)
    return content


def is_file(path: Path) -> bool:
    """Whether there is a file of this name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def damaged(file: Path) -> DGQError:
    """The error for a damaged file."""
    return DGQError(f"{file} is damaged: restore it, or remove it to go without")
