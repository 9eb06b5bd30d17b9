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
from dgq.ops import cpu, onednn
from dgq.unet.calls import timestep_tensor
from tests.quantized_models import Calibrated
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


CALLED = ("kmeans", "pixels", "exponents", "multiples", "live", "residual", "w8a8 symmetric")
"""Kinds of models that compute in different ways."""

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


@pytest.mark.parametrize("kind", CALLED)
@torch.no_grad()
def test_a_call_is_the_same(kind: str, calibrated_as: Callable[[str], Calibrated]) -> None:
    found = calibrated_as(kind)
    unet: Any = dgq.load_quantized_unet(found.folder, dtype=torch.float32)
    larger = unet_call(micro_unet(), 2, 401.0, seed=1, size=16)
    calls = [found.call | {"timestep": 401.0}, larger]
    expected = [unet(**call)[0] for call in calls]
    for name in ("bfloat16", "float64", "another device", "inference mode"):
        with STATES[name]():
            results = [unet(**call)[0] for call in calls]
        assert all(map(torch.equal, results, expected)), name


@torch.no_grad()
def test_numbers_are_not_rounded(calibrated_as: Callable[[str], Calibrated]) -> None:
    unet: Any = dgq.load_quantized_unet(calibrated_as("exponents").folder)
    with default_dtype(torch.bfloat16):
        call = unet.calls.call_of(torch.zeros(1, 4, 8, 8), 801.0)
        time = timestep_tensor(801.0, torch.device("cpu"))
    assert call.step.tolist() == [0]
    assert float(time) == 801.0


@pytest.mark.parametrize("state", ["bfloat16", "float64", "another device"])
@torch.no_grad()
def test_a_nan_inside_marks_its_sample(
    state: str, calibrated_as: Callable[[str], Calibrated]
) -> None:
    found = calibrated_as("exponents")
    unet: Any = dgq.load_quantized_unet(found.folder, dtype=torch.float32)
    index = torch.tensor([1])
    unet.mid_block.register_forward_hook(lambda *args: args[-1].index_fill(0, index, torch.nan))
    with STATES[state]():
        image = unet(**found.call)[0]
    assert image.isnan().flatten(1).all(1).tolist() == [False, True]
    assert not image[0].isnan().any()


@pytest.mark.parametrize("state", ["float64", "another device"])
def test_what_is_known_of_the_cpu_is_kept(state: str) -> None:
    """It is found once: under such defaults, all later calls would read what they made of it."""
    onednn._zeros.cache_clear()
    cpu.largest_weight_of_onednn.cache_clear()
    expected = cpu.largest_weight_of_onednn()
    cpu.largest_weight_of_onednn.cache_clear()
    with STATES[state]():
        assert cpu.largest_weight_of_onednn() == expected
        zeros = onednn._zeros(3)
    assert (zeros.device.type, zeros.dtype) == ("cpu", torch.int32)
