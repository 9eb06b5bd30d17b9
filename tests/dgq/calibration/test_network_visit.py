"""Calibrations whose last target is the UNet as a whole."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dgq
from dgq.calibration.calibrator import Calibrator
from dgq.calibration.learning import make_optimizer
from dgq.math.reconstruction import decibels
from dgq.settings import LearningSettings, NetworkSettings
from dgq.storage.model_files import REPORT_FILE
from dgq.targets import NETWORK
from tests.tiny_pipelines import micro_unet, unet_call

LEARNING = LearningSettings(iterations=12, polish_iterations=4)
SETTINGS = dgq.QuantizationSettings(
    dgq.WeightSettings(3, "minmax", symmetric=True, group_size=16, max_exponent=2),
    dgq.ActivationSettings(6, "multiples", max_exponent=4, qkv=False),
    dgq.ScoreSettings(16),
)
TIMESTEPS = (801.0, 401.0, 1.0)


def calibrated(
    network: NetworkSettings | None, folder: Path, learning: LearningSettings = LEARNING
) -> dgq.CalibrationResult:
    """A micro UNet, calibrated on the same random calls, and saved."""
    calls: list[dict[str, Any]] = [
        unet_call(micro_unet(), 3, t, seed=10 * i + k)
        for k in range(6)
        for i, t in enumerate(TIMESTEPS)
    ]
    recipe = dgq.Custom(SETTINGS, learning, "small", network)
    result = dgq.calibrate(micro_unet(), calls, recipe, batch_size=8, progress=False)
    dgq.save(result, folder)
    return result


def model_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != REPORT_FILE}


@pytest.fixture(scope="module")
def blocks_alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dgq.CalibrationResult, Path]:
    """A calibration that does not visit the UNet as a whole."""
    folder = tmp_path_factory.mktemp("blocks")
    return calibrated(None, folder), folder


def test_the_visit_lowers_the_error_of_the_output_and_is_the_last_record(
    blocks_alone: tuple[dgq.CalibrationResult, Path], tmp_path: Path
) -> None:
    before, folder = blocks_alone
    after = calibrated(NetworkSettings(rounding_lr=0.03), tmp_path)
    *blocks, network = after.report.targets
    assert tuple(blocks) == before.report.targets
    assert network.name == NETWORK
    assert network.error < 0.9 * network.error_nearest
    for error, db in ((network.error_nearest, before.report), (network.error, after.report)):
        assert decibels(error, 1.0) == pytest.approx(db.sqnr_db, abs=0.2)  # codes tip over
    old, new = (dgq.load_quantized_unet(path).state_dict() for path in (folder, tmp_path))
    assert old.keys() == new.keys()
    changed = {name for name in old if not old[name].equal(new[name])}
    leaves = {name.rpartition(".")[2] for name in changed}
    assert leaves == {"codes", "scale", "bias", "zero_point"}


@pytest.mark.slow
def test_what_does_not_lower_the_error_on_held_out_samples_is_dropped(tmp_path: Path) -> None:
    constant, wild = replace(LEARNING, decay="constant"), NetworkSettings(2.0, 1.0, 1.0)
    calibrated(None, tmp_path / "blocks", constant)
    result = calibrated(wild, tmp_path / "network", constant)
    network = result.report.targets[-1]
    assert network.error == network.error_nearest
    assert model_bytes(tmp_path / "network") == model_bytes(tmp_path / "blocks")


def test_rates_begin_anew_at_the_network_and_are_its_own() -> None:
    unet = micro_unet().requires_grad_(False)
    learning, rates_there = replace(LEARNING, activation_lr=0.05), NetworkSettings(0.1, 0.2, 0.3)
    calibrator = Calibrator(unet, dgq.Custom(SETTINGS, learning, network=rates_there))
    calibrator.quantize_(TIMESTEPS, (8, 8), unet_call(unet, 1, 1.0))
    assert list(calibrator.targets)[-1] == NETWORK
    assert (len(calibrator.targets), calibrator.n_blocks) == (25, 24)
    optimizer, schedule = make_optimizer(unet.modules(), learning, rates_there, n_blocks=2)
    rates = []
    for _ in range(3 * learning.total_iterations):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    _, _, activations, network, codes = torch.tensor(rates).unflatten(0, (3, -1)).permute(2, 0, 1)
    assert activations[0].equal(activations[1])
    assert (activations[1, :12] == 0).all()
    assert activations[1, 12] == pytest.approx(0.05)
    for part, rate in ((network, 0.1), (activations, 0.2), (codes, 0.3)):
        assert part[2, 0] == pytest.approx(rate)
        assert (part[2].diff() < 0).all()
