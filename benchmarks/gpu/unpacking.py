"""Exactness of weights of several layers unpacked by one launch, compared with the reference."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.exactness import outcome
from dgq.ops import reference, triton
from dgq.ops.packed_together import PackedTogether, together
from dgq.ops.packed_weight import PackedWeight

GROUP_SIZE = 64
LARGEST = 15


def check_unpacking(device: str, channels: int) -> dict[str, Any]:
    """Results for layers with 1, 9 and 25 taps, with and without factors and shifts, for JSON."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((channels, 9), (channels + 7, 1), (5, 9), (3, 25), (3 * channels, 1), (40, 1))
    mixed = ((True, True), (False, True), (True, False), (False, False), (True, True), (True, True))
    kinds = {"mixed": mixed, "codes alone": ((False, False),) * len(shapes)}
    results = {}
    for name, parts in kinds.items():
        weights = [
            random_weight(*shape, channels, *has, generator)
            for shape, has in zip(shapes, parts, strict=True)
        ]
        packed = together([on(device, weight) for weight in weights], GROUP_SIZE)
        expected = torch.cat([unpacked(weight) for weight in weights]).to(device)
        results[name] = outcome(partial(unpacked_together, packed), expected)
    return {"case": "unpacking", "tiles": results, "exact": set(results.values()) == {"exact"}}


def unpacked_together(packed: PackedTogether) -> Tensor:
    """The kernel's output for the layers, without the gaps between them."""
    whole = triton.unpack_all(*packed)
    sizes = [(offset, 2 * weight.codes.numel()) for offset, weight in packed.parts()]
    return torch.cat([whole[offset : offset + size] for offset, size in sizes])


def unpacked(weight: PackedWeight) -> Tensor:
    """A weight unpacked by the reference."""
    whole: Tensor = reference.unpack(*weight, 2 * weight.codes.shape[2]).flatten()
    return whole


def on(device: str, weight: PackedWeight) -> PackedWeight:
    """A weight on a device."""
    codes, zero_point, factor, shift, group_size = weight
    factor, shift = (None if t is None else t.to(device) for t in (factor, shift))
    return PackedWeight(codes.to(device), zero_point.to(device), factor, shift, group_size)


def random_weight(
    rows: int,
    taps: int,
    channels: int,
    has_factor: bool,
    has_shift: bool,
    generator: torch.Generator,
) -> PackedWeight:
    """A weight with all codes, the largest of which just fit into s8.

    A zero point in the middle leaves room for larger factors.
    """

    def whole(low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high + 1, size, generator=generator)

    symmetric = bool(whole(0, 1, 1))
    zero_point = torch.full((rows,), 8) if symmetric else whole(0, LARGEST, rows)
    groups = -(-channels * taps // GROUP_SIZE)
    return PackedWeight(
        whole(0, 255, rows, taps, channels // 2).to(torch.uint8),
        zero_point.to(torch.int8),
        whole(1, 4 if symmetric else 2, channels).to(torch.int8) if has_factor else None,
        whole(0, 2, rows, groups).to(torch.uint8) if has_shift else None,
        GROUP_SIZE,
    )
