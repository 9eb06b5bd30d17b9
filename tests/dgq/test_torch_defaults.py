"""Defaults of torch that a program has set change no result, and are left as they are."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

import dgq
from tests.tiny_pipelines import micro_unet, unet_call

RECIPE = dgq.Custom(
    dgq.QuantizationSettings(dgq.WeightSettings(4, "minmax"), keep=("*_blocks.*", "conv_out")),
    dgq.LearningSettings(iterations=1, polish_iterations=1),
)
TIMESTEPS = (801.0, 403.0)
"""Neither is a number in bfloat16."""


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "another device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
}


def settings() -> tuple[Any, ...]:
    """The defaults that a program may set, and the generator's state."""
    autocast = torch.is_autocast_enabled("cpu")
    state = torch.get_rng_state().numpy().tobytes()
    return torch.get_default_dtype(), torch.get_default_device(), autocast, state


def given() -> tuple[UNet2DConditionModel, list[dict[str, Any]]]:
    """A UNet and its calls."""
    unet = micro_unet()
    return unet, [unet_call(unet, 3, t, seed=i) for i, t in enumerate(TIMESTEPS)]


def tensors(unet: Any) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in unet.state_dict().items() if tensor.numel()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def result() -> dgq.CalibrationResult:
    return dgq.calibrate(*given(), RECIPE, progress=False)


@pytest.mark.parametrize("state", STATES)
def test_a_calibration_is_the_same(state: str, result: dgq.CalibrationResult) -> None:
    unet, calls = given()
    with STATES[state]():
        before = settings()
        found = dgq.calibrate(unet, calls, RECIPE, progress=False)
        assert settings() == before
    assert_same(tensors(found.unet), tensors(result.unet))
    assert found.report.sqnr_by_step_db == result.report.sqnr_by_step_db


@pytest.mark.parametrize("state", STATES)
def test_a_model_is_loaded_saved_and_dequantized_as_ever(
    state: str, result: dgq.CalibrationResult, tmp_path: Path
) -> None:
    dgq.save(result, tmp_path / "expected")
    loaded: Any = dgq.load_quantized_unet(tmp_path / "expected", dtype=torch.float32)
    with STATES[state]():
        before = settings()
        dgq.save(result, tmp_path / "found")
        unet: Any = dgq.load_quantized_unet(tmp_path / "expected", dtype=torch.float32)
        stock = dgq.dequantize(unet)
        again: Any = UNet2DConditionModel.from_pretrained(tmp_path / "expected")
        assert settings() == before
    for file in ("config.json", "diffusion_pytorch_model.safetensors"):
        written = [(tmp_path / folder / file).read_bytes() for folder in ("expected", "found")]
        assert written[0] == written[1]
    assert_same(tensors(unet), tensors(loaded))
    assert_same(tensors(stock), tensors(dgq.dequantize(loaded)))
    for each in (unet, again):
        [known] = each.calls._known.values()
        assert known.dtype == torch.float32
        assert tuple(known.tolist()) == tuple(sorted(TIMESTEPS, reverse=True))
