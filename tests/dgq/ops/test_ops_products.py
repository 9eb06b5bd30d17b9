"""Integer products against whole numbers of 64 bits."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq import ops
from dgq.ops import cpu, onednn, reference, tile_layout
from tests.left_to_torch import is_left_to_torch

LARGEST = cpu.largest_weight_of_onednn()
fast = pytest.mark.skipif(LARGEST == 0, reason="oneDNN has no exact products of bytes here")
layouts = pytest.mark.parametrize("layout", ["plain", "tiles", pytest.param("onednn", marks=fast)])
"""Of the weight. Without AMX, weights in tiles are multiplied by the reference."""


def laid_out(weight: Tensor, layout: str, *window: Any) -> Tensor:
    """A weight ``[out, in]``, or that of a convolution with stride, dilation and groups."""
    if layout == "onednn":
        return onednn.pack_conv2d(weight, *window) if window else onednn.pack_linear(weight)
    if layout == "tiles":
        return tile_layout.in_tiles(weight)
    return weight


def codes_and_weight(
    codes: tuple[int, ...], weight: tuple[int, ...], seed: int, layout: str = "plain"
) -> tuple[Tensor, Tensor]:
    """Random u8 codes and s8 weights over their whole ranges, or all that oneDNN multiplies."""
    generator = torch.Generator().manual_seed(seed)
    largest = LARGEST if layout == "onednn" else 128
    return (
        torch.randint(0, 256, codes, generator=generator).to(torch.uint8),
        torch.randint(-largest, min(largest + 1, 128), weight, generator=generator).to(torch.int8),
    )


def scales(out: int, n_steps: int, batch: int, per_row: bool, seed: int) -> tuple[Tensor, ...]:
    """Scales of the weight and of the activations, biases, and steps."""
    generator = torch.Generator().manual_seed(seed)
    step = torch.randint(0, n_steps, (batch if per_row else 1,), generator=generator)
    weight_scale, scale = (torch.rand(n, generator=generator) + 0.01 for n in (out, n_steps))
    return weight_scale, scale, torch.randn(n_steps, out, generator=generator), step


def expected(
    sums: Tensor, weight_scale: Tensor, scale: Tensor, bias: Tensor, step: Tensor
) -> Tensor:
    """What integer sums ``[batch, ..., out]`` stand for, in float64, sample by sample."""
    steps = step.expand(sums.shape[0]).tolist()
    rows = [
        s.double() * weight_scale.double() * scale[t].double() + bias[t].double()
        for s, t in zip(sums, steps, strict=True)
    ]
    return torch.stack(rows)


@layouts
@given(
    batch=st.integers(1, 4),
    tokens=st.integers(1, 5),
    channels=st.integers(1, 70),
    out=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_accumulators_of_linear_layers_equal_64_bit_sums(
    layout: str, batch: int, tokens: int, channels: int, out: int, seed: int
) -> None:
    codes, weight = codes_and_weight((batch, tokens, channels), (out, channels), seed, layout)
    sums = codes.long() @ weight.long().t()
    ones = torch.ones(out), torch.ones(1), torch.zeros(1, out), torch.zeros(1, dtype=torch.long)
    right = laid_out(weight, layout)
    found = ops.int_linear(codes, right, *ones, torch.float32)
    assert torch.equal(found.double(), sums.double())  # below 2^24, which float32 holds


@layouts
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_products_do_not_saturate(layout: str, sign: int) -> None:
    extreme = max(-128, min(127, sign * (LARGEST if layout == "onednn" else 128)))
    codes = torch.full((1, 2, 4000), 255, dtype=torch.uint8)
    plain = torch.full((16, 4000), extreme, dtype=torch.int8)
    weight = laid_out(plain, layout)
    ones = torch.ones(16), torch.ones(1), torch.zeros(1, 16), torch.zeros(1, dtype=torch.long)
    found = ops.int_linear(codes, weight, *ones, torch.float32)
    assert (found == 255 * extreme * 4000).all()


Conv = dict[str, Any]
convolutions = st.fixed_dictionaries(
    {
        "groups": st.integers(1, 3),
        "inputs": st.integers(1, 13),
        "outputs": st.integers(1, 9),
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "stride": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "batch": st.integers(1, 3),
        "size": st.tuples(st.integers(5, 8), st.integers(5, 8)),
        "seed": st.integers(0, 2**16),
    }
)


def case(conv: Conv, layout: str) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Codes, weight and geometry of a drawn convolution."""
    groups = conv["groups"]
    shape = (conv["batch"], *conv["size"], groups * conv["inputs"])
    weight = (groups * conv["outputs"], conv["inputs"], *conv["kernel"])
    geometry = [list(conv[name]) for name in ("kernel", "stride", "dilation")]
    return *codes_and_weight(shape, weight, conv["seed"], layout), geometry


# An output one pixel wide, with a stride, and columns behind the window or not.
NARROW: Conv = {"groups": 1, "inputs": 8, "outputs": 4, "batch": 2, "seed": 0, "stride": (1, 2)}


@layouts
@given(conv=convolutions)
@example(conv={**NARROW, "kernel": (1, 3), "dilation": (1, 2), "size": (5, 5)})
@example(conv={**NARROW, "kernel": (3, 3), "dilation": (1, 1), "size": (8, 4)})
@example(conv={**NARROW, "kernel": (3, 3), "dilation": (1, 1), "size": (8, 3)})
@example(conv={**NARROW, "kernel": (2, 2), "dilation": (2, 2), "size": (9, 4), "groups": 3})
@settings(max_examples=80, deadline=None)
def test_accumulators_of_convolutions_equal_64_bit_sums(layout: str, conv: Conv) -> None:
    assume(conv["groups"] == 1 or layout != "tiles")
    codes, weight, (kernel, stride, dilation) = case(conv, layout)
    groups, out = conv["groups"], weight.shape[0]
    planes = codes.permute(0, 3, 1, 2)
    sums = F.conv2d(planes.long(), weight.long(), None, stride, 0, dilation, groups)
    ones = torch.ones(out), torch.ones(1), torch.zeros(1, out), torch.zeros(1, dtype=torch.long)
    right = laid_out(weight, layout, stride, dilation, groups)
    shape = (kernel, stride, dilation, groups, torch.float32)
    found = ops.int_conv2d(codes, right, *ones, *shape)
    assert torch.equal(found.double(), sums.permute(0, 2, 3, 1).double())
    assert found.is_contiguous()
    if layout != "tiles":
        assert torch.equal(reference.int_conv2d(codes, right, *ones, *shape), found)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@layouts
def test_each_sample_is_scaled_at_its_own_step(
    per_row: bool, dtype: torch.dtype, layout: str
) -> None:
    codes, weight = codes_and_weight((3, 6, 7, 5), (4, 5, 3, 3), 0, layout)
    others = scales(4, 5, 3, per_row, 1)
    sums = F.conv2d(codes.permute(0, 3, 1, 2).long(), weight.long()).permute(0, 2, 3, 1)
    right = laid_out(weight, layout, [1, 1], [1, 1], 1)
    found = ops.int_conv2d(codes, right, *others, [3, 3], [1, 1], [1, 1], 1, dtype)
    close = {"rtol": 1e-5, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 8e-3, "atol": 1.0}
    torch.testing.assert_close(found.double(), expected(sums, *others), **close)

    codes, weight = codes_and_weight((3, 5), (4, 5), 2, layout)  # 2-D, as of the time embedding
    right = laid_out(weight, layout)
    found = ops.int_linear(codes, right, *others, dtype)
    torch.testing.assert_close(
        found.double(), expected(codes.long() @ weight.long().t(), *others), **close
    )


def test_one_row_serves_all_steps() -> None:
    codes, weight = codes_and_weight((2, 3, 5), (4, 5), 0)
    weight_scale, scale, bias, _ = scales(4, 1, 2, False, 1)
    late = torch.tensor([7, 2])
    found = ops.int_linear(codes, weight, weight_scale, scale, bias, late, torch.float32)
    sums = codes.long() @ weight.long().t()
    first = torch.zeros(1, dtype=torch.long)
    wanted = expected(sums, weight_scale, scale, bias, first)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-3)


def test_the_operators_are_good_citizens() -> None:
    codes, weight = codes_and_weight((2, 6, 7, 5), (4, 5, 3, 3), 0)
    others = scales(4, 3, 2, True, 1)
    shape = ([3, 3], [2, 1], [1, 1], 1, torch.float32)
    torch.library.opcheck(torch.ops.dgq.int_conv2d.default, (codes, weight, *others, *shape))
    codes, weight = codes_and_weight((2, 6, 5), (4, 5), 0)
    torch.library.opcheck(
        torch.ops.dgq.int_linear.default, (codes, weight, *others, torch.bfloat16)
    )


@layouts
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_large_samples_of_different_steps_equal_64_bit_sums(
    kernel: tuple[int, int], layout: str
) -> None:
    codes, weight = codes_and_weight((3, 34, 34, 64), (16, 64, *kernel), 0, layout)
    assert codes[0].numel() >= onednn.OWN_PRODUCT
    weight_scale, scale, bias, step = scales(16, 3, 3, True, 1)
    assert len(set(step.tolist())) > 1
    right = laid_out(weight, layout, [1, 1], [1, 1], 1)
    geometry = (list(kernel), [1, 1], [1, 1], 1)
    tables = (weight_scale, scale, bias, step)
    found = ops.int_conv2d(codes, right, *tables, *geometry, torch.float32)
    sums = F.conv2d(codes.permute(0, 3, 1, 2).double(), weight.double()).permute(0, 2, 3, 1)
    torch.testing.assert_close(
        found.double(), expected(sums, *tables), rtol=1e-5, atol=1e-3, check_stride=False
    )


@fast
def test_onednn_is_trusted_as_far_as_its_instructions_go() -> None:
    # Without all that the package imports, which takes seconds and has no part in this.
    program = (
        "import sys, types; sys.modules['dgq'] = dgq = types.ModuleType('dgq'); "
        f"dgq.__path__ = [{str(Path(cpu.__file__).parents[1])!r}]; "
        "from dgq.ops import cpu; print(cpu.largest_weight_of_onednn())"
    )
    command = [sys.executable, "-c", program]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.split() == ["64"]
    assert LARGEST in (64, 128)


own = pytest.mark.skipif(not cpu.has_own_products(), reason="no compiler, or no AVX2")


def by_our_kernel(codes: Tensor, weight: Tensor, *others: Any) -> Tensor:
    """The kernel without tiles, of what it can read: codes, a weight, tables, stride, dilation."""
    *tables, stride, dilation = others
    window = (list(weight.shape[2:]), stride, dilation, 1, torch.float32)
    assert not is_left_to_torch(ops.int_conv2d, codes, weight, *tables, *window)
    output: Tensor = ops.int_conv2d(codes, weight, *tables, *window)
    return output


@own
@given(
    conv=convolutions,
    rows=st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    per_row=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_our_kernel_computes_the_reference(
    conv: Conv, rows: tuple[int, int], per_row: bool
) -> None:
    codes, weight, (kernel, stride, dilation) = case(conv | {"groups": 1}, "plain")
    weight_scale, scale, bias, step = scales(
        weight.shape[0], 3, conv["batch"], per_row, conv["seed"]
    )
    tables = (weight_scale, scale[: rows[0]], bias[: rows[1]], step)
    found = by_our_kernel(codes, weight, *tables, stride, dilation)
    shape = (kernel, stride, dilation, 1, torch.float32)
    wanted = reference.int_conv2d(codes, weight, *tables, *shape)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-3)


@own
@given(
    largest_code=st.sampled_from([0, 1, 3, 7, 15, 31, 63, 64, 127, 128, 129, 254, 255]),
    largest_weight=st.sampled_from([1, 7, 31, 32, 63, 64, 65, 127, 128]),
    inputs=st.integers(1, 1100),
    outputs=st.integers(1, 20),
    extreme=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_our_kernel_is_exact_however_much_16_bits_hold(
    largest_code: int, largest_weight: int, inputs: int, outputs: int, extreme: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, largest_code + 1, (1, 1, 7, inputs), generator=generator)
    weight = torch.randint(
        -largest_weight, largest_weight + 1, (outputs, inputs), generator=generator
    )
    if extreme:  # all products at their largest, of one sign for each output
        codes = torch.full_like(codes, largest_code)
        weight = torch.where(weight[:, :1] < 0, -largest_weight, largest_weight).expand_as(weight)
    weight = weight.clamp(-128, 127)
    sums = codes[0, 0] @ weight.t()
    tables = (*(torch.ones(outputs), torch.ones(1), torch.zeros(1, outputs)), torch.tensor([0]))
    operands = (codes.to(torch.uint8), weight.to(torch.int8)[:, :, None, None], *tables)
    assert torch.equal(
        by_our_kernel(*operands, [1, 1], [1, 1])[0, 0].double(), sums.float().double()
    )


@own
@pytest.mark.parametrize("rows", [1, 95, 97, 191, 192, 193, 400])
@pytest.mark.parametrize(("inputs", "outputs"), [(511, 15), (512, 64), (513, 65), (1700, 340)])
def test_our_kernel_adds_up_across_its_blocks(rows: int, inputs: int, outputs: int) -> None:
    codes, weight = codes_and_weight((1, 1, rows, inputs), (outputs, inputs, 1, 1), 0)
    tables = (*(torch.ones(outputs), torch.ones(1), torch.zeros(1, outputs)), torch.tensor([0]))
    found = by_our_kernel(codes, weight, *tables, [1, 1], [1, 1])
    sums = codes[0].double() @ weight.flatten(1).t().double()
    assert torch.equal(found.double(), sums[None].float().double())


@own
def test_our_kernel_reads_tensors_however_they_lie() -> None:
    codes, weight = codes_and_weight((2, 6, 7, 5), (4, 5, 3, 3), 0)
    tables = scales(4, 3, 2, True, 1)
    window = ([1, 1], [1, 1])
    expected = by_our_kernel(codes, weight, *tables, *window)
    apart = [torch.stack([x, x + 1], -1)[..., 0] for x in (codes, weight, *tables)]
    assert not any(x.is_contiguous() for x in apart)
    assert torch.equal(by_our_kernel(*apart, *window), expected)

    codes, weight = codes_and_weight((2, 3, 4, 5), (6, 5), 0)
    turned = codes.transpose(1, 2)  # as a linear layer may get them
    tables, shape = scales(6, 3, 2, True, 1), (torch.float32,)
    found = ops.int_linear(turned, weight, *tables, *shape)
    assert torch.equal(found, ops.int_linear(turned.contiguous(), weight, *tables, *shape))


@own
def test_our_kernels_write_float32_whatever_the_default_is() -> None:
    codes, weight = codes_and_weight((2, 6, 7, 5), (4, 5, 3, 3), 0)
    operands = (codes, weight, *scales(4, 3, 2, True, 1), [1, 1], [1, 1])
    expected, ranges = by_our_kernel(*operands), ops.channel_ranges(operands[3].view(1, 1, -1))
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(by_our_kernel(*operands), expected)
        again = ops.channel_ranges(operands[3].view(1, 1, -1))
    finally:
        torch.set_default_dtype(default)
    assert all(map(torch.equal, again, ranges))


@own
def test_what_our_kernel_cannot_read_is_left_to_torch() -> None:
    codes, weight = codes_and_weight((2, 6, 7, 5), (4, 5, 3, 3), 0)
    weight_scale, scale, bias, step = scales(4, 3, 2, True, 1)
    tables = (weight_scale, scale, bias, step)

    def can(codes: Tensor, weight: Tensor, *others: Any) -> bool:
        *tables, stride, dilation = others
        window = ([3, 3], stride, dilation, 1, torch.float32)
        return not is_left_to_torch(ops.int_conv2d, codes, weight, *tables, *window)

    assert can(codes, weight, *tables, [1, 1], [1, 1])
    assert can(codes, weight, *tables, [3, 4], [2, 2])
    for window in (
        ([1, 1], [3, 1]),
        ([1, 1], [-9, 1]),
        ([0, 1], [1, 1]),
        ([1, -1], [1, 1]),
        ([1, 1, 5], [1, 1]),
        ([2**58, 1], [1, 1]),
        ([1, 1], [1, 2**62 + 1]),
    ):
        assert not can(codes, weight, *tables, *window)
    for groups in (2, 0, -1):
        window = ([3, 3], [1, 1], [1, 1], groups, torch.float32)
        assert is_left_to_torch(ops.int_conv2d, codes, weight, *tables, *window)
    points = (codes, weight[..., :1, :1], *tables)
    assert is_left_to_torch(ops.int_linear, *points, torch.float32)
    for operands in (
        (codes.to(torch.int8), weight, *tables),
        (codes[..., :4], weight, *tables),
        (codes[:, :2], weight, *tables),
        (codes[:0], weight, weight_scale, scale, bias, step[:0]),
        (codes[:0], weight, weight_scale, scale, bias, step[:1]),
        (codes, weight[:0], weight_scale[:0], scale, bias[:, :0], step),
        (codes, weight, weight_scale.double(), scale, bias, step),
        (codes, weight, weight_scale[:3], scale, bias, step),
        (codes, weight, weight_scale, scale[None], bias, step),
        (codes, weight, weight_scale, scale[:0], bias, step),
        (codes, weight, weight_scale, scale, bias[:, :3], step),
        (codes, weight, weight_scale, scale, bias, step.repeat(2)),
        (codes, weight, weight_scale, scale, bias, torch.tensor([0, 3])),
        (codes, weight, weight_scale, scale, bias, torch.tensor([-1, 0])),
    ):
        assert not can(*operands, [1, 1], [1, 1])


@fast
@pytest.mark.parametrize("shape", [(5, 8), (5, 8, 3, 3)], ids=["linear", "convolution"])
def test_onednn_is_given_only_operands_that_agree(shape: tuple[int, ...]) -> None:
    codes, weight = codes_and_weight((2, 6, 7, 8), shape, 0, "onednn")
    weight_scale, scale, bias, step = scales(5, 3, 2, True, 1)
    is_linear = len(shape) == 2
    operator = ops.int_linear if is_linear else ops.int_conv2d
    window = () if is_linear else ([3, 3], [1, 1], [1, 1], 1)
    packed = laid_out(weight, "onednn", *window[1:])

    def product(codes: Tensor, *tables: Tensor) -> Tensor:
        output: Tensor = operator(codes, packed, *tables, *window, torch.float32)
        return output

    expected = product(codes, weight_scale, scale, bias, step)
    apart = [torch.stack([x, x + 1], -1)[..., 0] for x in (weight_scale, scale, bias)]
    torch.testing.assert_close(product(codes, *apart, step), expected)
    wide = product(codes, weight_scale.double(), scale, bias, step)
    torch.testing.assert_close(wide, expected)
    for operands in (
        (codes, weight_scale[:0], scale, bias, step),
        (codes, weight_scale[:4], scale, bias[:, :4], step),
        (codes, weight_scale.to_mkldnn(), scale, bias, step),
        (codes, weight_scale, scale, bias[:, :3], step),
        (codes[..., :7], weight_scale, scale, bias, step),
    ):
        with pytest.raises(RuntimeError):
            product(*operands)


@own
def test_sums_beyond_32_bits_are_left_to_torch() -> None:
    inputs = 70_000
    codes = torch.full((1, 1, inputs), 255, dtype=torch.uint8)
    weight = torch.full((1, inputs), 127, dtype=torch.int8)
    tables = torch.ones(1), torch.ones(1), torch.zeros(1, 1), torch.tensor([0])
    found = ops.int_linear(codes, weight, *tables, torch.float32)
    assert found.item() == pytest.approx(255 * 127 * inputs)


@own
def test_a_dilated_kernel_larger_than_the_image_is_an_error() -> None:
    codes, weight = codes_and_weight((1, 4, 4, 5), (4, 5, 3, 3), 0)
    tables = scales(4, 1, 1, False, 1)
    with pytest.raises(RuntimeError, match="Kernel size"):
        ops.int_conv2d(codes, weight, *tables, [3, 3], [1, 1], [2, 2], 1, torch.float32)
