"""The product of whole boxes against whole numbers of 64 bits."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.ops import reference
from dgq.ops.triton import convolve, products
from dgq.ops.triton.epilogue import Epilogue
from dgq.ops.triton.tiles import Tile
from dgq.ops.triton.tma import Box, box_of, convolve_boxes, suits
from dgq.ops.triton.tma_tiles import MEASURED, TILES, Shape, tile_for
from dgq.ops.triton.window import Window
from tests.triton_kernels import DEVICE

pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and torch.cuda.get_device_capability() < (9, 0), reason="has no copy engine"
)


def whole(*sizes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, sizes, generator=generator).to(DEVICE, torch.int8)


def window(kernel: int, stride: int = 1) -> Window:
    return Window((kernel, kernel), (stride, stride), (0, 0), (1, 1), 1)


@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 9),
    channels=st.sampled_from([16, 32, 48, 80]),
    out=st.sampled_from([8, 24, 40]),
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.sampled_from([1, 2]),
    parts=st.sampled_from([1, 2]),
    per_sample=st.booleans(),
    adds=st.booleans(),
    rows=st.sampled_from([16, 32]),
)
@settings(max_examples=25, deadline=None)
def test_sums_equal_those_of_64_bits(
    batch: int,
    height: int,
    width: int,
    channels: int,
    out: int,
    kernel: int,
    stride: int,
    parts: int,
    per_sample: bool,
    adds: bool,
    rows: int,
) -> None:
    grown = (stride * (height - 1) + kernel, stride * (width - 1) + kernel)
    codes = whole(batch, *(n + -n % stride for n in grown), channels)
    weight = whole(out, kernel, kernel, channels, seed=1)
    tile = Tile(rows, 32, 16, parts=parts)
    assert suits(codes.shape, weight.shape, window(kernel, stride), tile.inputs)
    n_steps = batch if per_sample else 1
    scale = torch.arange(1.0, n_steps + 1, device=DEVICE)
    bias = torch.arange(float(n_steps * out), device=DEVICE).view(n_steps, out)
    step = torch.arange(n_steps, device=DEVICE)
    residual = torch.randint(0, 9, (batch, height, width, out)).float() if adds else None
    of_kernel = None if residual is None else residual.to(DEVICE)
    epilogue = Epilogue(torch.ones(out, device=DEVICE), scale, bias, step, of_kernel)
    found = convolve_boxes(codes, weight, epilogue, window(kernel, stride), torch.float32, tile)
    planes, kernels = codes.permute(0, 3, 1, 2).cpu().double(), weight.permute(0, 3, 1, 2)
    sums = F.conv2d(planes, kernels.cpu().double(), stride=stride).permute(0, 2, 3, 1)
    expected = sums * scale.cpu()[:, None, None, None] + bias.cpu()[:, None, None]
    expected = expected + (0 if residual is None else residual)
    assert torch.equal(found.cpu(), expected.float())


@pytest.mark.parametrize(
    ("size", "given_window", "inputs"),
    [
        ((1, 4, 4, 24), window(3), 16),  # rows of 24 bytes
        ((1, 5, 5, 32), window(3, 2), 16),  # an odd height
        ((1, 4, 4, 48), window(3, 2), 32),  # channels beyond the last are the next pixel's
        ((1, 6, 6, 32), window(3)._replace(dilation=(2, 2)), 16),
        ((1, 4, 4, 32), window(3)._replace(padding=(1, 1)), 16),
        ((1, 4, 4, 32), window(3)._replace(groups=2), 16),
    ],
)
def test_what_the_engine_cannot_load_is_left_to_the_other_kernel(
    size: tuple[int, ...], given_window: Window, inputs: int
) -> None:
    weight = (16, 3, 3, size[-1] // given_window.groups)
    assert not suits(size, weight, given_window, inputs)


@given(
    pixels=st.sampled_from([16, 64, 128, 256]),
    batch=st.integers(1, 40),
    height=st.integers(1, 150),
    width=st.integers(1, 5000),
)
def test_a_box_has_as_many_pixels_as_the_tile_and_no_better_one_exists(
    pixels: int, batch: int, height: int, width: int
) -> None:
    found = box_of(pixels, batch, height, width)
    assert math.prod(found) == pixels
    assert max(found) <= 256

    def boxes(box: Box) -> int:
        sizes = zip((batch, height, width), box, strict=True)
        return math.prod(-(-n // size) for n, size in sizes)

    powers = [1 << n for n in range(9)]
    others = (Box(*sizes) for sizes in itertools.product(powers, repeat=3))
    assert boxes(found) == min(boxes(box) for box in others if math.prod(box) == pixels)


def test_boxes_of_stable_diffusions_images() -> None:
    assert box_of(128, 16, 64, 64) == (2, 1, 64)
    assert box_of(256, 2, 8, 8) == (2, 8, 16)  # half of it beyond the image
    assert box_of(128, 16, 8, 8) == (16, 1, 8)


def test_a_shape_takes_the_tile_of_the_nearest_measured_one() -> None:
    assert all(tile_for(shape) == tile for shape, tile in MEASURED.items())
    assert set(MEASURED.values()) == set(TILES)
    assert tile_for(Shape(9, 66000, 320, 320)) == MEASURED[Shape(9, 65536, 320, 320)]
    assert tile_for(Shape(1, 3, 1280, 1280)) == MEASURED[Shape(1, 16, 1280, 1280)]


@pytest.mark.parametrize("kernel", [1, 3])
def test_operators_multiply_boxes_where_there_is_an_engine(
    kernel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolve, "has_copy_engine", lambda device: True)
    used: list[Tile] = []
    right = convolve.convolve_boxes

    def noted(*arguments: Any) -> torch.Tensor:
        used.append(arguments[-1])
        return right(*arguments)

    monkeypatch.setattr(convolve, "convolve_boxes", noted)
    codes = whole(2, 6, 6, 32)
    weight = whole(16, 32, kernel, kernel).contiguous(memory_format=torch.channels_last)
    ones, step = torch.ones(16, device=DEVICE), torch.zeros(1, dtype=torch.long, device=DEVICE)
    tables = (ones, ones[:1], ones[None], step)
    shape = ([kernel] * 2, [1, 1], [1, 1], 1)
    found = products.int_conv2d(codes, weight, *tables, *shape, torch.float32)
    expected = reference.int_conv2d(codes, weight, *tables, *shape, torch.float32)
    assert torch.equal(found, expected)
    assert used == [tile_for(Shape(kernel**2, 2 * (7 - kernel) ** 2, 16, 32))]
