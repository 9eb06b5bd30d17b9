"""Products by tiles (AMX): the layout of weights, and our kernel against whole numbers."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq import ops
from dgq.ops import cpu, reference, tile_layout
from tests.left_to_torch import is_left_to_torch

amx = pytest.mark.skipif(not cpu.has_tile_products(), reason="no AMX, or no compiler")
Tables = tuple[Tensor, Tensor, Tensor, Tensor]


def codes_of(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


def weight_of(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randint(-128, 128, shape, generator=generator).to(torch.int8)


def tables_of(out: int, steps: tuple[int, ...], rows: tuple[int, int] = (3, 3)) -> Tables:
    """Scales of the weight and of ``rows`` steps, biases of ``rows`` steps, and steps."""
    generator = torch.Generator().manual_seed(out)
    scales = [torch.rand(n, generator=generator) + 0.01 for n in (out, rows[0])]
    return *scales, torch.randn(rows[1], out, generator=generator), torch.tensor(steps)


@given(n_out=st.integers(1, 50), n_in=st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_the_layout_holds_each_weight_where_tiles_multiply_it(n_out: int, n_in: int) -> None:
    weight = weight_of(n_out, n_in)
    tiles = tile_layout.in_tiles(weight)
    assert tiles.shape == tile_layout.shape(n_out, n_in)
    assert tile_layout.is_in_tiles(tiles)
    assert not tile_layout.is_in_tiles(weight)
    for out, k in ((0, 0), (n_out - 1, n_in - 1), (n_out // 2, n_in // 3)):
        # Four inputs of one output channel, then of the next; a row of a tile is 64 bytes.
        place = k % 64 // 4 * 64 + out % 16 * 4 + k % 4
        assert tiles[out // 16, k // 64, place] == weight[out, k]
    assert tiles.long().sum() == weight.long().sum()  # what pads it is 0
    assert torch.equal(tile_layout.from_tiles(tiles, (n_out, n_in)), weight)
    apart = torch.stack([tiles, tiles + 1], -1)[..., 0]
    unaligned = torch.cat([tiles.new_zeros(1), tiles.flatten()])[1:].view(tiles.shape)
    for lying in (apart, unaligned):
        assert torch.equal(tile_layout.from_tiles(lying, (n_out, n_in)), weight)


windows = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "size": st.tuples(st.integers(5, 9), st.sampled_from([5, 16, 18, 20, 34, 37])),
        "channels": st.sampled_from([1, 5, 60, 64, 65, 128, 200]),
        "out": st.sampled_from([1, 15, 16, 17, 31, 32, 33, 50]),
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "stride": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
    }
)
PLAIN = {"batch": 2, "kernel": (3, 3), "dilation": (1, 1), "stride": (1, 1)}


@amx
@given(window=windows)
@example(window={**PLAIN, "size": (6, 18), "channels": 64, "out": 32})
@example(window={**PLAIN, "size": (7, 34), "channels": 128, "out": 17})
@example(window={**PLAIN, "size": (9, 34), "channels": 64, "out": 33, "stride": (2, 2)})
@example(window={**PLAIN, "size": (7, 66), "channels": 64, "out": 33, "stride": (1, 2)})
@example(window={**PLAIN, "size": (9, 20), "channels": 64, "out": 33, "dilation": (2, 2)})
@example(window={**PLAIN, "size": (7, 18), "channels": 128, "out": 16, "batch": 3})
@settings(max_examples=150, deadline=None)
def test_sums_of_convolutions_equal_64_bit_sums(window: dict[str, Any]) -> None:
    kernel, stride, dilation = (list(window[name]) for name in ("kernel", "stride", "dilation"))
    codes = codes_of(window["batch"], *window["size"], window["channels"])
    weight = weight_of(window["out"], window["channels"], *kernel)
    sums = F.conv2d(codes.permute(0, 3, 1, 2).double(), weight.double(), None, stride, 0, dilation)
    ones = (torch.ones(window["out"]), torch.ones(1), torch.zeros(1, window["out"]))
    operands = (codes, tile_layout.in_tiles(weight), *ones, torch.tensor([0]))
    call = (*operands, kernel, stride, dilation, 1, torch.float32)
    assert not is_left_to_torch(ops.int_conv2d, *call)
    found = ops.int_conv2d(*call)
    assert torch.equal(found.double(), sums.permute(0, 2, 3, 1))
    assert found.is_contiguous()


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# Rows of windows read in place and copied; more rows, inputs and outputs than one job has.
LARGE = [
    ((2, 66, 34, 64), (48, 64, 3, 3)),
    ((2, 21, 19, 192), (112, 192, 3, 3)),
    ((1, 10, 10, 1300), (80, 1300, 3, 3)),
    ((1, 1, 2080, 64), (272, 64, 1, 1)),
    ((3, 1, 77, 768), (320, 768, 1, 1)),
    ((1, 1, 40, 5000), (500, 5000, 1, 1)),
    ((1, 1, 9000, 500), (32, 500, 1, 1)),  # threads copy different windows at the same time
]


@amx
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("shape", "weight_shape"), LARGE)
def test_large_products_equal_64_bit_sums(
    shape: tuple[int, ...], weight_shape: tuple[int, ...]
) -> None:
    codes, weight = codes_of(*shape), weight_of(*weight_shape)
    out, kernel = weight_shape[0], list(weight_shape[2:])
    ones = (torch.ones(out), torch.ones(1), torch.zeros(1, out), torch.tensor([0]))
    window = (kernel, [1, 1], [1, 1], 1, torch.float32)
    sums = F.conv2d(codes.permute(0, 3, 1, 2).double(), weight.double()).permute(0, 2, 3, 1)
    tiles = tile_layout.in_tiles(weight)
    for _ in range(10):  # threads that share memory do not spoil it each time
        assert torch.equal(ops.int_conv2d(codes, tiles, *ones, *window), sums.float())


@amx
@pytest.mark.parametrize("rows", [(1, 1), (3, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("steps", [(2,), (0, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_sample_is_scaled_at_its_own_step(
    dtype: torch.dtype, steps: tuple[int, ...], rows: tuple[int, int]
) -> None:
    codes, weight = codes_of(3, 45, 130), weight_of(40, 130)  # samples share units of 32 rows
    tables = tables_of(40, steps, rows)
    found = ops.int_linear(codes, tile_layout.in_tiles(weight), *tables, dtype)
    expected = reference.int_linear(codes, weight, *tables, torch.float32)
    assert found.dtype == dtype
    exact = ops.int_linear(codes, tile_layout.in_tiles(weight), *tables, torch.float32)
    torch.testing.assert_close(exact, expected, rtol=1e-5, atol=1e-3)
    assert torch.equal(found, exact.to(dtype))  # rounded once, to nearest


@amx
def test_extreme_products_do_not_saturate() -> None:
    inputs = 60_000
    codes = torch.full((1, 2, inputs), 255, dtype=torch.uint8)
    ones = (torch.ones(16), torch.ones(1), torch.zeros(1, 16), torch.tensor([0]))
    for extreme in (-128, 127):
        weight = tile_layout.in_tiles(torch.full((16, inputs), extreme, dtype=torch.int8))
        found = ops.int_linear(codes, weight, *ones, torch.float32)
        assert (found == float(255 * extreme * inputs)).all()


def test_sums_beyond_32_bits_are_left_to_torch() -> None:
    inputs = 70_000
    codes = torch.full((1, 1, inputs), 255, dtype=torch.uint8)
    weight = tile_layout.in_tiles(torch.full((1, inputs), 127, dtype=torch.int8))
    ones = (torch.ones(1), torch.ones(1), torch.zeros(1, 1), torch.tensor([0]))
    assert is_left_to_torch(ops.int_linear, codes, weight, *ones, torch.float32)
    found = ops.int_linear(codes, weight, *ones, torch.float32)
    assert found.item() == pytest.approx(255 * 127 * inputs)


@pytest.mark.parametrize("tokens", [1, 5, 50])
@pytest.mark.parametrize("steps", [(1,), (0, 2, 1)])
@pytest.mark.parametrize("channels", [16, 48, 20])
def test_gated_codes_are_those_of_the_reference(
    channels: int, steps: tuple[int, ...], tokens: int
) -> None:
    generator = torch.Generator().manual_seed(channels)
    codes, weight = codes_of(3, tokens, 70), weight_of(2 * channels, 70)
    weight_scale, scale, bias, step = tables_of(2 * channels, steps)
    operands = (weight_scale / 10_000, scale, bias, step)
    n = len(steps)  # of 3, or 1 for all steps
    quantizer = (
        torch.tensor([0.01, 0.02, 0.05])[:n],
        torch.randint(1, 4, (channels,), generator=generator).float(),
        torch.randint(0, 50, (n, channels), generator=generator).to(torch.int16),
        torch.randint(1, 5, (channels,), generator=generator).float(),
        63,
    )
    found = ops.int_linear_gated(codes, tile_layout.in_tiles(weight), *operands, *quantizer)
    expected = reference.int_linear_gated(codes, weight, *operands, *quantizer)
    assert found.shape == (3, tokens, channels)
    assert found.dtype == torch.uint8
    inside = (expected > 0) & (expected < 63 * quantizer[3])
    assert inside.float().mean() > 0.3
    difference = (found.int() - expected.int()).abs()  # GELU is approximate: by 2e-6
    assert (difference <= quantizer[3]).all()
    assert (difference > 0).float().mean() < 0.01


def test_layers_without_tokens_have_empty_outputs() -> None:
    codes, tiles = codes_of(2, 0, 70), tile_layout.in_tiles(weight_of(32, 70))
    tables, of_zero = tables_of(32, (0,)), torch.zeros(3, 16, dtype=torch.int16)
    assert ops.int_linear(codes, tiles, *tables, torch.bfloat16).shape == (2, 0, 32)
    quantizer = (torch.ones(3), torch.ones(16), of_zero, torch.ones(16))
    assert ops.int_linear_gated(codes, tiles, *tables, *quantizer, 255).shape == (2, 0, 16)


@amx
def test_gates_are_fused_if_the_quantizers_tables_agree() -> None:
    quantizer = (torch.ones(3), torch.ones(16), torch.zeros(3, 16, dtype=torch.int16))
    tables = tables_of(32, (0,))
    operands = (codes_of(2, 3, 64), tile_layout.in_tiles(weight_of(32, 64)), *tables)

    def is_fused(operands: tuple[Tensor, ...], *quantizer: Tensor) -> bool:
        return not is_left_to_torch(ops.int_linear_gated, *operands, *quantizer, 255)

    assert is_fused(operands, *quantizer, torch.ones(16))
    assert not is_fused(operands, *quantizer, torch.ones(15))
    assert not is_fused(operands, *quantizer, torch.ones(16).double())
    assert not is_fused(operands, quantizer[0][:2], *quantizer[1:], torch.ones(16))


def test_a_weight_of_other_inputs_is_read_as_by_the_reference() -> None:
    """Padding hides how many inputs a weight has."""
    codes, weight = codes_of(2, 3, 40), tile_layout.in_tiles(weight_of(16, 64))
    tables = tables_of(16, (2, 1))
    found = ops.int_linear(codes, weight, *tables, torch.float32)
    torch.testing.assert_close(found, reference.int_linear(codes, weight, *tables, torch.float32))


@amx
def test_tensors_are_read_however_they_lie() -> None:
    codes, weight = codes_of(2, 6, 18, 64), tile_layout.in_tiles(weight_of(20, 64, 3, 3))
    tables = tables_of(20, (2, 1))
    window = ([3, 3], [1, 1], [1, 1], 1, torch.float32)
    apart = [torch.stack([x, x + 1], -1)[..., 0] for x in (codes, weight, *tables)]
    assert not any(x.is_contiguous() for x in apart)
    expected = ops.int_conv2d(codes, weight, *tables, *window)
    assert torch.equal(ops.int_conv2d(*apart, *window), expected)


@amx
def test_what_the_kernel_cannot_read_is_left_to_torch() -> None:
    codes, weight = codes_of(2, 6, 7, 70), tile_layout.in_tiles(weight_of(20, 70, 3, 3))
    weight_scale, scale, bias, step = tables = tables_of(20, (2, 1))
    plain = ([3, 3], [1, 1], [1, 1])

    def can(*operands: Any) -> bool:
        return not is_left_to_torch(ops.int_conv2d, *operands, 1, torch.float32)

    assert can(codes, weight, *tables, *plain)
    assert can(codes, weight, *tables, [3, 3], [3, 4], [2, 3])
    for operands in (
        (codes.to(torch.int8), weight, *tables),
        (codes[..., :5], weight, *tables),
        (codes[:, :2], weight, *tables),
        (codes[:0], weight, weight_scale, scale, bias, step[:0]),
        (codes, weight[:1], *tables),
        (codes, weight[:, :-1], *tables),
        (codes, weight, weight_scale.double(), scale, bias, step),
        (codes, weight, weight_scale[:16], scale, bias, step),
        (codes, weight, weight_scale, scale, bias[:, :16], step),
        (codes, weight, weight_scale, scale, bias, torch.tensor([0, 3])),
        (codes, weight, weight_scale, scale, bias, torch.tensor([-1, 0])),
    ):
        assert not can(*operands, *plain)
    for window in (
        ([3, 3], [1, 1], [3, 1]),
        ([3, 3], [1, 1], [-9, 1]),
        ([3, 3], [0, 1], [1, 1]),
        ([3, 3], [1, -1], [1, 1]),
        ([-3, -3], [1, 1], [1, 1]),
        ([1, 1], [1, 1], [1, 1]),
        ([3], [1, 1], [1, 1]),
        ([3, 3, 3], [1, 1], [1, 1]),
        ([3, 3], [1, 1, 5], [1, 1]),
        ([3, 3], [2**58, 1], [1, 1]),
        ([3, 3], [1, 1], [1, 2**62 + 1]),
    ):
        assert not can(codes, weight, *tables, *window)
    groups = (*plain, 2, torch.float32)
    assert is_left_to_torch(ops.int_conv2d, codes, weight, *tables, *groups)


def test_the_reference_reads_weights_in_tiles() -> None:
    """As CPUs without AMX do, for an exported program from another machine."""
    codes, weight = codes_of(2, 6, 7, 5), weight_of(20, 5, 3, 3)
    tables = tables_of(20, (2, 1))
    window = ([3, 3], [2, 1], [1, 2], 1, torch.bfloat16)
    found = reference.int_conv2d(codes, tile_layout.in_tiles(weight), *tables, *window)
    assert torch.equal(found, reference.int_conv2d(codes, weight, *tables, *window))
    plain = weight_of(20, 5)
    found = reference.int_linear(codes, tile_layout.in_tiles(plain), *tables, torch.float32)
    assert torch.equal(found, reference.int_linear(codes, plain, *tables, torch.float32))
    wide = weight_of(32, 5)
    tables = (*tables_of(32, (2, 1)), torch.ones(3), torch.ones(16))
    operands = (*tables, torch.full((3, 16), 99, dtype=torch.int16), torch.ones(16), 255)
    found = reference.int_linear_gated(codes, tile_layout.in_tiles(wide), *operands)
    assert torch.equal(found, reference.int_linear_gated(codes, wide, *operands))


def test_the_operators_are_good_citizens() -> None:
    codes, weight, tables = codes_of(2, 6, 7, 5), weight_of(20, 5, 3, 3), tables_of(20, (2, 1))
    window = ([3, 3], [2, 1], [1, 1], 1, torch.float32)
    tiles = tile_layout.in_tiles(weight)
    torch.library.opcheck(torch.ops.dgq.int_conv2d.default, (codes, tiles, *tables, *window))
    tiles = tile_layout.in_tiles(weight_of(20, 5))
    operands = (codes, tiles, *tables, torch.bfloat16)
    torch.library.opcheck(torch.ops.dgq.int_linear.default, operands)
