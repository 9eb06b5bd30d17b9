"""Run folders: those calibrated by train.py, and models with other activations made from them."""

from dataclasses import replace
from pathlib import Path

import torch
import yaml

from benchmarks.ablation.cells import Calibration, Cell
from benchmarks.groups import regrouped
from benchmarks.scripts import calibrate
from dgq.errors import DGQError
from dgq.settings import QuantizationSettings
from dgq.storage.checkpoint import has_model, read_manifest, save_quantized


def run_of(calibration: Calibration, outputs: Path) -> Path:
    """The folder of a calibration's run."""
    return outputs / "runs" / calibration.name


def config_of(calibration: Calibration, outputs: Path) -> Path:
    """The run's configuration for ``train.py fit``."""
    return outputs / "configs" / f"{calibration.name}.yaml"


def fit_arguments(calibration: Calibration, outputs: Path) -> list[str]:
    """Arguments of ``train.py fit``, without the folder."""
    return [
        "--config",
        str(config_of(calibration, outputs)),
        "--data.cache",
        str(outputs / "cache"),
    ]


def calibrated(calibration: Calibration, outputs: Path) -> Path:
    """The folder of a finished run, which is calibrated or resumed if necessary.

    Raises:
        DGQError: if the folder has a run with other settings.
    """
    write_config(calibration, outputs)
    run = run_of(calibration, outputs)
    calibrate(run, *fit_arguments(calibration, outputs))
    return run


def write_config(calibration: Calibration, outputs: Path) -> None:
    """Write the run's configuration.

    Raises:
        DGQError: if the run's folder was calibrated with another configuration.
    """
    config, run = config_of(calibration, outputs), run_of(calibration, outputs)
    text = yaml.safe_dump(calibration.config, sort_keys=False)
    if config.is_file() and config.read_text(encoding="utf-8") != text and run.exists():
        raise DGQError(
            f"{run} was calibrated by other settings than {calibration.name} has now: remove it, "
            "or name another folder with --outputs"
        )
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(text, encoding="utf-8")


def model_of(cell: Cell, outputs: Path) -> Path:
    """The folder of a cell's model, made if it does not exist; the cell's run must be finished."""
    run = run_of(cell.calibration, outputs)
    if cell.as_calibrated:
        return run / "quantized"
    return regrouped_model(run, cell.recipe.quantization, outputs / "models" / cell.name)


def regrouped_model(run: Path, settings: QuantizationSettings, folder: Path) -> Path:
    """The folder of a run's model with other activations, made if it does not exist."""
    if has_model(folder) and read_manifest(folder).quantization == settings:
        return folder
    manifest = read_manifest(run)
    state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    unet = regrouped(manifest, state, settings)
    save_quantized(unet, folder, replace(manifest, quantization=settings))
    return folder
