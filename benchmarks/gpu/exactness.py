"""Exactness of every candidate tile, compared with float64 on shapes like Stable Diffusion's."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgq.math.packing import pack_codes
from dgq.ops import triton
from dgq.ops.copy_engine import has_copy_engine
from dgq.ops.packed_weight import PackedWeight, multiplied, packed_for_kernels
from dgq.ops.triton.epilogue import Epilogue
from dgq.ops.triton.tiles import CANDIDATES
from dgq.ops.triton.tma import convolve_boxes, suits
from dgq.ops.triton.tma_tiles import TILES
from dgq.ops.triton.window import Window


@dataclass(frozen=True)
class Case:
    """A kind of product.

    Args:
        kernel: height and width.
        stride: stride in both directions.
        packed: whether the weight has 4 bits.
    """

    kernel: int
    stride: int = 1
    packed: bool = False


CASES: Mapping[str, Case] = {
    "linear": Case(1),
    "conv": Case(3),
    "conv-stride": Case(3, 2),
    "linear-packed": Case(1, packed=True),
    "conv-packed": Case(3, packed=True),
    "conv-stride-packed": Case(3, 2, True),
}
PARTS = (1, 3)


def check(name: str, device: str, channels: int) -> dict[str, Any]:
    """Results of all tiles for one case, for JSON: what is inexact or failed, and why."""
    case = CASES[name]
    codes, operands, sums = drawn(case, device, channels)
    function: Any = triton.int_conv2d_packed if case.packed else triton.int_conv2d
    options = {"expanded_from": 10**9} if case.packed else {}
    results = {}
    run = partial(function, codes, *operands, torch.float32)
    for tile in tiles(device):
        results[str(tile)] = outcome(partial(run, tile=tile, **options), sums)
    if case.packed:
        first = partial(run, tile=tiles_first(), expanded_from=0)
        results["expanded"] = outcome(first, sums)
        if codes.is_cuda:  # with the tile that is used
            results["as used"] = outcome(run, sums)
    else:
        results |= check_boxes(case, codes, operands, sums)
    return {"case": name, "tiles": results, "exact": set(results.values()) == {"exact"}}


def outcome(
    run: Callable[[], Tensor],
    expected: Tensor,
    agrees: Callable[[Tensor, Tensor], bool] = torch.equal,
) -> str:
    """``exact``, or how a product failed."""
    try:
        return "exact" if agrees(run(), expected) else "WRONG"
    except Exception as error:  # anything that a compiler or driver raises
        return f"failed: {error}"[:300]


def check_boxes(
    case: Case, codes: Tensor, operands: tuple[Any, ...], sums: Tensor
) -> dict[str, str]:
    """The tiles of the kernel that loads boxes, except those ruled out by a stride."""
    weight, *tables = operands[:5]
    taps = weight.permute(0, 2, 3, 1).contiguous()
    window = Window((case.kernel,) * 2, (case.stride,) * 2, (0, 0), (1, 1), 1)
    run = partial(convolve_boxes, codes, taps, Epilogue(*tables), window, torch.float32)
    return {
        f"boxes {tile}": outcome(partial(run, tile), sums)
        for tile in boxes(codes)
        if suits(codes.shape, taps.shape, window, tile.inputs)
    }


def boxes(x: Tensor) -> Iterator[triton.Tile]:
    """The tiles in use, alone and sharing; only a small one in an interpreter."""
    if not x.is_cuda:
        yield triton.Tile(32, 32, 32)
    elif has_copy_engine(x.device):
        for tile in TILES:
            yield from (replace(tile, parts=parts) for parts in PARTS)


def tiles(device: str) -> Iterator[triton.Tile]:
    """All candidates, alone and sharing; only the smallest in an interpreter."""
    candidates = CANDIDATES if device.startswith("cuda") else (triton.Tile(32, 32, 32),)
    for tile in candidates:
        for parts in PARTS:
            yield replace(tile, parts=parts)


def tiles_first() -> triton.Tile:
    """A tile that all devices have room for."""
    return triton.Tile()


def drawn(case: Case, device: str, channels: int) -> tuple[Tensor, tuple[Any, ...], Tensor]:
    """Codes, the operands between them and the output dtype, and the sums in float32."""
    generator = torch.Generator().manual_seed(case.kernel)

    def whole(low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high + 1, size, generator=generator)

    k, out = case.kernel, channels
    codes = whole(-128, 127, 2, 18, 18, channels).to(device, torch.int8)
    tables = (torch.ones(out), torch.ones(1), torch.zeros(1, out), torch.zeros(1).long())
    window = ([k, k], [case.stride] * 2, [1, 1], 1)
    if case.packed:
        weight = PackedWeight(
            packed_for_kernels(pack_codes(whole(0, 15, out, channels * k * k), 4), channels, k * k),
            torch.full((out,), 8, dtype=torch.int8),
            whole(1, 4, channels).to(torch.int8),
            whole(0, 1, out, -(-channels * k * k // 64)).to(torch.uint8),
            64,
        )
        kernels = multiplied(weight, channels, 1).view(out, channels, k, k)
        operands: tuple[Any, ...] = (*weight, *tables, *window)
    else:
        kernels = whole(-128, 127, out, channels, k, k).to(torch.int8)
        kernels = kernels.contiguous(memory_format=torch.channels_last)
        operands = (kernels, *tables, *window)
    operands = tuple(o.to(device) if isinstance(o, Tensor) else o for o in operands)
    planes = codes.permute(0, 3, 1, 2).double()
    sums = F.conv2d(planes, kernels.to(device).double(), None, case.stride)
    return codes, operands, sums.permute(0, 2, 3, 1).float()
