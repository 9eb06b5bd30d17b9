"""Several processes calibrate together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgq.storage.checkpoint import load_quantized_unet
from dgq.targets import NETWORK
from tests.calibration_runs import (
    command,
    rows,
)
from tests.tiny_pipelines import ROOT, fit_arguments, learning_options


def in_two_processes(arguments: list[str]) -> None:
    subprocess.run(
        [sys.executable, "train.py", *arguments, "--trainer.devices", "2"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )


def test_two_processes_find_the_ranges_of_one_bit_for_bit(
    micro_folder: Path, tmp_path: Path
) -> None:
    nearest = learning_options(0, 0)
    more = (*nearest, "--data.micro_batch_size", "2")
    assert command([*fit_arguments(micro_folder, tmp_path, "one"), *more]) == 0
    in_two_processes([*fit_arguments(micro_folder, tmp_path, "two"), *more])
    for name in ("quantized/diffusion_pytorch_model.safetensors", "quantized/config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.slow
def test_a_process_may_have_nothing_held_out(micro_folder: Path, tmp_path: Path) -> None:
    """One micro-batch of held-out pairs and two of others: the second process measures nothing."""
    nearest = learning_options(0, 0)
    more = (*nearest, "--data.micro_batch_size", "6", "--data.n_held_out", "4")
    in_two_processes([*fit_arguments(micro_folder, tmp_path, "two"), *more])
    assert len(rows(tmp_path / "two")) == 24


@pytest.mark.slow
def test_two_processes_agree_on_the_network(micro_folder: Path, tmp_path: Path) -> None:
    """Of which only the first has held-out samples to decide by."""
    more = (*learning_options(3, 2), "--data.micro_batch_size", "6", "--data.n_held_out", "4")
    in_two_processes([*fit_arguments(micro_folder, tmp_path, "two"), *more])
    network = rows(tmp_path / "two")[-1]
    assert network["target"] == NETWORK
    assert 0 < float(network["error"]) <= float(network["error_nearest"])
    assert load_quantized_unet(tmp_path / "two")


@pytest.mark.slow
def test_two_processes_learn_as_well_as_one(micro_folder: Path, tmp_path: Path) -> None:
    learning = learning_options(60, 20)
    more = (*learning, "--data.micro_batch_size", "2")
    assert command([*fit_arguments(micro_folder, tmp_path, "one"), *more]) == 0
    in_two_processes([*fit_arguments(micro_folder, tmp_path, "two"), *more])
    one, two = (
        sum(float(row["error"]) for row in rows(tmp_path / name)) for name in ("one", "two")
    )
    nearest = sum(float(row["error_nearest"]) for row in rows(tmp_path / "one"))
    assert max(one, two) < nearest
    assert abs(one - two) < 0.1 * nearest
