"""One thread for everything, and tiny pipelines."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported

from dgq.command_line.stopping import SIGNALS
from tests.quantized_models import SETTINGS, Calibrated, calibrated
from tests.tiny_pipelines import LEARNING, fit_arguments, save_micro, save_sd, save_sdxl

# How long an example takes depends on what else the machine does, and says nothing.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
torch.set_num_threads(1)  # tiny networks gain nothing from more, and lose much on a busy machine
gc.set_threshold(100_000, 50, 100)  # a tenth of all tests is spent looking for cycles otherwise


@pytest.fixture
def heard() -> Iterator[None]:
    """No signal is ignored, as those of a terminal are in the background or under nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with the structure of SD 1.4."""
    return save_sd(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with the structure of SDXL."""
    return save_sdxl(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(scope="session")
def micro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest Stable Diffusion pipeline, with 24 targets."""
    return save_micro(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(scope="session")
def calibrated_as(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Calibrated]:
    """Calibrated UNets by the name of their settings, each made once; never changed by tests."""
    return cache(lambda name: calibrated(SETTINGS[name], tmp_path_factory.mktemp("calibrated")))


@pytest.fixture(scope="session")
def finished_work(micro_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an uninterrupted run (``run``) of ``micro_folder``, its cache and captions."""
    from data.calibration import CalibrationData
    from lit.cli import main

    work = tmp_path_factory.mktemp("finished")
    assert main([*fit_arguments(micro_folder, work), *LEARNING], CalibrationData) == 0
    return work
