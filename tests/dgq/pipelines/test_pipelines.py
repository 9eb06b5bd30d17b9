"""Pipelines from folders, and one line for everything that is none."""

import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl as sdxl

from dgq.errors import DGQError
from dgq.pipelines import hub
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.pipelines.sources import resolve

MISSING = "nobody/no-such-model"


@pytest.mark.parametrize("fixture", ["sd_folder", "sdxl_folder", "micro_folder"])
def test_a_folder_is_loaded_in_float32_and_evaluation_mode(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    pipeline = load_pipeline(str(folder))
    assert not pipeline.unet.training
    assert pipeline.unet.dtype == torch.float32
    alone = load_unet(str(folder)).state_dict()
    assert alone.keys() == pipeline.unet.state_dict().keys()
    assert all(torch.equal(alone[name], t) for name, t in pipeline.unet.state_dict().items())


def test_images_are_not_marked_where_a_package_would(
    sdxl_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdxl, "is_invisible_watermark_available", lambda: True)
    monkeypatch.setattr(sdxl, "StableDiffusionXLWatermarker", object, raising=False)
    assert DiffusionPipeline.from_pretrained(sdxl_folder).watermark is not None
    assert load_pipeline(str(sdxl_folder)).watermark is None


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DGQError, match=r"is not a pipeline: expected .* model_index\.json"):
        resolve(str(tmp_path))


@pytest.fixture
def damaged(micro_folder: Path, tmp_path: Path) -> Path:
    """A copy of a pipeline, to be damaged."""
    return Path(shutil.copytree(micro_folder, tmp_path / "damaged"))


@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
        "model_index.json",
    ],
)
@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_damaged_pipeline_is_one_line_that_names_it(damaged: Path, file: str, how: str) -> None:
    path = damaged / file
    content = path.read_bytes()
    path.unlink()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DGQError, match="damaged") as caught:
        load_pipeline(str(damaged))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [load_unet, load_pipeline])
def test_a_pipeline_without_a_unet_is_refused(load: Callable[[str], object], damaged: Path) -> None:
    shutil.rmtree(damaged / "unet")
    with pytest.raises(DGQError, match="damaged"):
        load(str(damaged))


def test_no_network_is_one_line_that_says_what_to_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DGQError) as caught:
        resolve(MISSING)
    message = str(caught.value)
    assert "\n" not in message
    assert f"hf download {MISSING} --local-dir models/no-such-model" in message
    assert "--pipeline models/no-such-model" in message


def test_a_network_that_never_answers_is_given_up_after_one_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(hub, "TIMEOUT_S", 0.3)
        start = time.monotonic()
        with pytest.raises(DGQError, match="hf download"):
            resolve(MISSING)
        assert time.monotonic() - start < 5


def test_the_time_to_wait_for_the_hub_is_at_most_10_seconds() -> None:
    assert hub.TIMEOUT_S <= 10
