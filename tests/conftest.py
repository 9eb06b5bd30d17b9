"""One thread for everything, the repository's root on the path, and tiny pipelines."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
# The test folders are named after the packages they test and would hide them otherwise.
sys.path.insert(0, str(ROOT))

torch.set_num_threads(1)  # tiny networks gain nothing from more, and lose much on a busy machine

from tiny_pipelines import LEARNING, fit_arguments, save_micro, save_sd, save_sdxl  # noqa: E402


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
def finished_work(micro_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an uninterrupted run (``run``) of ``micro_folder``, its cache and captions."""
    from data.calibration import CalibrationData
    from lit.cli import main

    work = tmp_path_factory.mktemp("finished")
    assert main([*fit_arguments(micro_folder, work), *LEARNING], CalibrationData) == 0
    return work
