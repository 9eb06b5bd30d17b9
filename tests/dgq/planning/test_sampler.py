"""The timesteps of a sampler are known before anything is drawn."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from dgq.calibration.recording import record_calls
from dgq.errors import DGQError
from dgq.pipelines.loading import load_pipeline
from dgq.planning.sampler import sampler_timesteps
from dgq.storage.checkpoint import GenerationSettings

SAMPLERS = ("PNDMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler")


def with_sampler(micro_folder: Path, folder: Path, name: str) -> Path:
    copy = Path(shutil.copytree(micro_folder, folder / name))
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", name]}))
    return copy


@pytest.mark.parametrize("name", SAMPLERS)
def test_timesteps_are_those_of_the_calls(name: str, micro_folder: Path, tmp_path: Path) -> None:
    folder = with_sampler(micro_folder, tmp_path, name)
    pipeline: DiffusionPipeline = load_pipeline(str(folder))
    with torch.no_grad():
        calls = record_calls(pipeline, ["a"], GenerationSettings(3, 1.0), 0, 1)
    assert sampler_timesteps(folder, 3) == calls.timesteps.tolist()


@pytest.mark.parametrize("name", SAMPLERS)
def test_more_steps_than_a_sampler_has_are_refused(
    name: str, micro_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DGQError, match=r"num_inference_steps"):
        sampler_timesteps(with_sampler(micro_folder, tmp_path, name), 100_000)


@pytest.mark.parametrize("content", ["{", "[]", '{"num_train_timesteps": "many"}'])
def test_a_damaged_sampler_is_refused(content: str, micro_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(micro_folder, tmp_path / "p"))
    (folder / "scheduler/scheduler_config.json").write_text(content)
    with pytest.raises(DGQError, match=r"sampler of .* cannot be read|cannot make"):
        sampler_timesteps(folder, 3)
