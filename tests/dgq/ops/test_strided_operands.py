"""Operands with gaps, or that repeat one value: kernels take addresses, and no strides."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dgq import ops
from dgq.ops import reference, triton
from dgq.ops.packed_together import together
from dgq.ops.packed_weight import PackedWeight
from tests.triton_kernels import DEVICE, SMALL

BATCH, STEPS, CHANNELS, OUT, LARGEST = 3, 3, 32, 16, 100
WINDOW: tuple[Any, ...] = ([3, 3], [1, 1], [1, 1], 1)
GENERATOR = torch.Generator().manual_seed(0)


def real(*size: int) -> Tensor:
    return torch.rand(size, generator=GENERATOR) + 0.1


def whole(low: int, high: int, *size: int, dtype: torch.dtype = torch.int8) -> Tensor:
    return torch.randint(low, high + 1, size, generator=GENERATOR).to(dtype)


STEP = torch.tensor([0, 2, 1])
FACTOR = whole(1, 2, CHANNELS).float()
ZERO_POINT = whole(0, 90, STEPS, CHANNELS, dtype=torch.int16)
TABLES = (real(STEPS), whole(1, 3, CHANNELS).float(), ZERO_POINT, FACTOR, STEP)
TOKENS, IMAGE = whole(-128, 127, BATCH, 5, CHANNELS), whole(-128, 127, BATCH, 5, 4, CHANNELS)
LINEAR, CONV = whole(-127, 127, OUT, CHANNELS), whole(-127, 127, OUT, CHANNELS, 3, 3)
EPILOGUE = (real(OUT), real(STEPS), real(STEPS, OUT), STEP)
CODES, ZERO = whole(0, 255, OUT, 9, CHANNELS // 2, dtype=torch.uint8), whole(0, 15, OUT)
SHIFT = whole(0, 1, OUT, CHANNELS * 9 // 32, dtype=torch.uint8)
PACKED = (CODES, ZERO, whole(1, 2, CHANNELS), SHIFT, 32)
GATED = (whole(-20, 20, 2 * CHANNELS, CHANNELS), real(2 * CHANNELS) / 99, real(STEPS))
ONE_STEP = (real(STEPS, 2 * CHANNELS), STEP[:1], *TABLES[:4], LARGEST, 128)
OPERANDS: dict[str, tuple[Any, ...]] = {
    "quantize": (real(BATCH, 5, CHANNELS) * 9, *TABLES, LARGEST, []),
    "quantize_gated": (real(BATCH, 5, 2 * CHANNELS) * 9, *TABLES, LARGEST),
    "pad": (IMAGE, ZERO_POINT, FACTOR, STEP, LARGEST, [1, 1], 128),
    "int_linear": (TOKENS, LINEAR, *EPILOGUE, torch.float32),
    "int_linear_gated": (TOKENS, *GATED, *ONE_STEP),
    "int_conv2d": (IMAGE, CONV, *EPILOGUE, *WINDOW, torch.float32),
    "int_conv2d_packed": (IMAGE, *PACKED, *EPILOGUE, *WINDOW, torch.float32),
    "conv2d_packed": (
        *(IMAGE.half() / 99, CODES, ZERO, SHIFT, 32, EPILOGUE[0] / 9, real(OUT)),
        *([3, 3], [1, 1], [1, 1], [1, 1], 1),
    ),
    "unpack": (*PACKED, CHANNELS),
    "unpack_all": tuple(together([PackedWeight(*PACKED)], 32)),
}


def with_gaps(tensor: Tensor) -> Tensor:
    """A view of every second value of another tensor."""
    wide = torch.full((*tensor.shape, 2), 77, dtype=tensor.dtype, device=tensor.device)
    wide[..., 0] = tensor
    return wide[..., 0]


def assert_values_are_read(name: str, function: Callable[..., Tensor], *operands: Any) -> None:
    """A kernel computes from views what the reference computes from the tensors themselves."""
    expected = getattr(reference, name)(*operands).float()
    views = [with_gaps(o.to(DEVICE)) if isinstance(o, Tensor) else o for o in operands]
    found = function(*views).float().cpu()
    assert torch.allclose(found, expected, rtol=1e-2, atol=1.0)


@pytest.mark.parametrize("name", ["quantize", "quantize_gated", "int_linear", "int_conv2d"])
def test_a_cpu_reads_the_values_of_views(name: str) -> None:
    codes, *others = OPERANDS[name]
    codes = codes.view(torch.uint8) if name.startswith("int") else codes
    assert_values_are_read(name, getattr(ops, name), codes, *others)


@pytest.mark.parametrize("name", [name for name in OPERANDS if name != "quantize_gated"])
def test_triton_reads_the_values_of_views(name: str) -> None:
    function = getattr(triton, name)
    if "tile" in inspect.signature(function).parameters:
        function = partial(function, tile=SMALL)
    assert_values_are_read(name, function, *OPERANDS[name])


@pytest.mark.parametrize("name", ["quantize", "quantize_gated"])
def test_one_step_may_be_repeated_for_all_samples(name: str) -> None:
    x, *tables, _, largest = OPERANDS[name][:7]
    step = torch.tensor([2]).expand(BATCH)
    rest = (largest, []) if name == "quantize" else (largest,)
    found = getattr(ops, name)(x, *tables, step, *rest)
    assert torch.equal(found, getattr(ops, name)(x, *tables, step[:1], *rest))


@pytest.mark.parametrize("name", ["quantize", "quantize_gated"])
def test_steps_and_types_that_the_kernels_do_not_know_are_left_to_torch(name: str) -> None:
    x, *tables, step, largest = OPERANDS[name][:7]
    rest = (largest, []) if name == "quantize" else (largest,)
    operator, plain = getattr(ops, name), getattr(reference, name)
    with pytest.raises(RuntimeError, match="index 3 is out of bounds"):
        operator(x, *tables, step + 1, *rest)
    with pytest.raises(RuntimeError):  # the kernels would read beyond the steps
        operator(x, *tables, step[: BATCH - 1], *rest)
    for index in (0, 1, 3):
        others = [t.double() if i == index else t for i, t in enumerate(tables)]
        expected = plain(x, *others, step, *rest)
        assert torch.equal(operator(x, *others, step, *rest), expected)
