"""Torch counts as many operations for quantized layers as for the stock ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import dgq
from dgq import ops
from dgq.ops import cpu
from tests.quantized_models import Calibrated
from tests.tiny_pipelines import micro_unet

TABLES = [torch.ones(6), torch.ones(1), torch.zeros(1, 6), torch.zeros(1, dtype=torch.int64)]
WINDOW: tuple[Any, ...] = ([3, 2], [2, 1], [1, 2], 2)
IMAGE, TOKENS = torch.zeros(2, 7, 8, 4), torch.zeros(2, 5, 4)
CONV = F.conv2d, (torch.zeros(2, 4, 7, 8), torch.zeros(6, 2, 3, 2), None, (2, 1), (0, 0), (1, 2), 2)
LINEAR = F.linear, (TOKENS, torch.zeros(6, 4))
PACKED = [torch.zeros(6, 6, 1, dtype=torch.uint8), torch.zeros(6)]
NEXT = [torch.ones(1), torch.ones(3), torch.zeros(1, 3, dtype=torch.int16), torch.ones(3)]
SAME: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "int_linear": (
        *(ops.int_linear, (TOKENS.char(), torch.zeros(6, 4).char(), *TABLES, torch.float32)),
        LINEAR,
    ),
    "int_linear_gated": (
        *(ops.int_linear_gated, (TOKENS.char(), torch.zeros(6, 4).char(), *TABLES, *NEXT, 9, 128)),
        LINEAR,
    ),
    "int_conv2d": (
        ops.int_conv2d,
        (IMAGE.char(), torch.zeros(6, 2, 3, 2).char(), *TABLES, *WINDOW, torch.float32),
        CONV,
    ),
    "int_conv2d_packed": (
        ops.int_conv2d_packed,
        (IMAGE.char(), *PACKED, None, None, 0, *TABLES, *WINDOW, torch.float32),
        CONV,
    ),
    "conv2d_packed": (
        ops.conv2d_packed,
        (IMAGE, *PACKED, None, 0, TABLES[0], torch.zeros(6), [3, 2], [2, 1], [0, 0], [1, 2], 2),
        CONV,
    ),
    "attention": (
        *(ops.attention, (TOKENS, torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), 2, 1.0)),
        (lambda q, k: torch.bmm(torch.bmm(q, k.mT), k), (TOKENS, torch.zeros(2, 3, 4))),
    ),
}


def counted(function: Callable[..., Any], *args: Any, **named: Any) -> int:
    # torch counts no fused attention on a CPU.
    unfused = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, unfused, torch.no_grad():
        function(*args, **named)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", SAME)
def test_operators_are_counted_as_the_stock_ones(name: str) -> None:
    operator, operands, (stock, inputs) = SAME[name]
    expected = counted(stock, *inputs)
    assert expected > 0
    assert counted(operator, *(x.to("meta") if is_tensor(x) else x for x in operands)) == expected


def is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


@pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")
def test_a_unet_in_integers_is_counted_as_the_stock_one(
    calibrated_as: Callable[[str], Calibrated],
) -> None:
    found = calibrated_as("multiples")
    unet = dgq.load_quantized_unet(found.folder, "integer")
    assert counted(unet, **found.call) == counted(micro_unet(), **found.call)
