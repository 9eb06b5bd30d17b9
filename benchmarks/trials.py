"""Models that differ in one thing, each calibrated and measured once as in ``benchmarks/ablation``.

Runs and models are kept in a folder, by default that of the ablation, whose runs are reused.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.ablation.cells import Calibration
from benchmarks.ablation.held_out import held_out_calls
from benchmarks.ablation.measure import measure
from benchmarks.ablation.page import spread_text
from benchmarks.ablation.runs import (
    calibrated,
    fit_arguments,
    regrouped_model,
    run_of,
    write_config,
)
from data.calibration import CalibrationData
from dgq.errors import DGQError
from dgq.settings import QuantizationSettings
from dgq.storage.checkpoint import has_model
from dgq.storage.files import read_json, write_json
from lit.cli import main as train

OUTPUTS = Path("outputs/ablation")
N_PROMPTS = 64

Patch = Callable[[], AbstractContextManager[None]]
"""Context that changes the library while a model is calibrated."""


@dataclass(frozen=True)
class Trial:
    """One model.

    Args:
        calibration: calibration that gives its weights and ranges.
        change: name of its activations, if they are not those of the calibration.
        settings: settings of these activations.
        patch: change of the library during the calibration, which then has its own label.
    """

    calibration: Calibration
    change: str = ""
    settings: QuantizationSettings | None = None
    patch: Patch = nullcontext

    @property
    def name(self) -> str:
        """Name of its model."""
        return "--".join(part for part in (self.calibration.name, self.change) if part)


def run_folder(trial: Trial, outputs: Path = OUTPUTS) -> Path:
    """The folder of its finished run, which is calibrated if it does not exist."""
    run = run_of(trial.calibration, outputs)
    if has_model(run / "quantized") or trial.patch is nullcontext:
        return calibrated(trial.calibration, outputs)
    write_config(trial.calibration, outputs)
    resume = ["--ckpt_path", "last"] if (run / "last.ckpt").is_file() else []
    # In this process, where the patch applies.
    with trial.patch():
        code = train(
            ["fit", *fit_arguments(trial.calibration, outputs), "--run", str(run), *resume],
            CalibrationData,
        )
    if code:
        raise DGQError(f"{run} was not calibrated: see above")
    return run


def measured(trial: Trial, outputs: Path = OUTPUTS, n_prompts: int = N_PROMPTS) -> dict[str, Any]:
    """Its figures on held-out prompts, as from ``ablation.measure``; measured once."""
    write_config(trial.calibration, outputs)  # refuses figures of another recipe
    file = outputs / "trials" / f"{trial.name}-{n_prompts}-prompts.json"
    if file.is_file():
        known: dict[str, Any] = read_json(file)
        return known
    run = run_folder(trial, outputs)
    folder = run / "quantized"
    if trial.settings is not None:
        folder = regrouped_model(run, trial.settings, outputs / "models" / trial.name)
    held_out = held_out_calls(trial.calibration.model, n_prompts, outputs / "held-out")
    found = measure(folder, held_out, n_prompts)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, found)
    return found


def mean_and_spread(values: Sequence[float], digits: str = ".1f") -> str:
    """``mean ± standard deviation (number)`` of values in dB; a single value alone."""
    if len(values) == 1:
        return spread_text(values[0], None, digits)
    return f"{spread_text(mean(values), stdev(values), digits)} ({len(values)})"
