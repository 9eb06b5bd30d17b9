"""Integer products against whole numbers of 64 bits."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq import ops
from dgq.ops import cpu, onednn, reference

exact = pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU sums bytes in 16 bits")


def codes_and_weight(
    codes: tuple[int, ...], weight: tuple[int, ...], seed: int
) -> tuple[Tensor, Tensor]:
    """Random u8 codes and s8 weights over their whole ranges."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, 256, codes, generator=generator).to(torch.uint8),
        torch.randint(-128, 128, weight, generator=generator).to(torch.int8),
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


@exact
@given(
    batch=st.integers(1, 4),
    tokens=st.integers(1, 5),
    channels=st.integers(1, 70),
    out=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_accumulators_of_linear_layers_equal_64_bit_sums(
    batch: int, tokens: int, channels: int, out: int, seed: int
) -> None:
    codes, weight = codes_and_weight((batch, tokens, channels), (out, channels), seed)
    sums = codes.long() @ weight.long().t()
    ones = torch.ones(out), torch.ones(1), torch.zeros(1, out), torch.zeros(1, dtype=torch.long)
    found = ops.int_linear(codes, onednn.pack_linear(weight), *ones, torch.float32)
    assert torch.equal(found.double(), sums.double())  # below 2^24, which float32 holds


@exact
@pytest.mark.parametrize("extreme", [127, -128])
def test_the_largest_products_do_not_saturate(extreme: int) -> None:
    codes = torch.full((1, 2, 4000), 255, dtype=torch.uint8)
    weight = torch.full((16, 4000), extreme, dtype=torch.int8)
    ones = torch.ones(16), torch.ones(1), torch.zeros(1, 16), torch.zeros(1, dtype=torch.long)
    found = ops.int_linear(codes, onednn.pack_linear(weight), *ones, torch.float32)
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


def case(conv: Conv) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Codes, weight and geometry of a drawn convolution."""
    groups = conv["groups"]
    shape = (conv["batch"], *conv["size"], groups * conv["inputs"])
    weight = (groups * conv["outputs"], conv["inputs"], *conv["kernel"])
    geometry = [list(conv[name]) for name in ("kernel", "stride", "dilation")]
    return *codes_and_weight(shape, weight, conv["seed"]), geometry


@exact
@given(conv=convolutions)
@settings(max_examples=80, deadline=None)
def test_accumulators_of_convolutions_equal_64_bit_sums(conv: Conv) -> None:
    codes, weight, (kernel, stride, dilation) = case(conv)
    groups, out = conv["groups"], weight.shape[0]
    planes = codes.permute(0, 3, 1, 2)
    sums = F.conv2d(planes.long(), weight.long(), None, stride, 0, dilation, groups)
    ones = torch.ones(out), torch.ones(1), torch.zeros(1, out), torch.zeros(1, dtype=torch.long)
    packed = onednn.pack_conv2d(weight, stride, dilation, groups)
    shape = (kernel, stride, dilation, groups, torch.float32)
    found = ops.int_conv2d(codes, packed, *ones, *shape)
    assert torch.equal(found.double(), sums.permute(0, 2, 3, 1).double())
    assert found.is_contiguous()
    assert torch.equal(reference.int_conv2d(codes, packed, *ones, *shape), found)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("packed", [False, pytest.param(True, marks=exact)])
def test_each_sample_is_scaled_at_its_own_step(
    per_row: bool, dtype: torch.dtype, packed: bool
) -> None:
    codes, weight = codes_and_weight((3, 6, 7, 5), (4, 5, 3, 3), 0)
    others = scales(4, 5, 3, per_row, 1)
    sums = F.conv2d(codes.permute(0, 3, 1, 2).long(), weight.long()).permute(0, 2, 3, 1)
    right = onednn.pack_conv2d(weight, [1, 1], [1, 1], 1) if packed else weight
    found = ops.int_conv2d(codes, right, *others, [3, 3], [1, 1], [1, 1], 1, dtype)
    close = {"rtol": 1e-5, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 8e-3, "atol": 1.0}
    torch.testing.assert_close(found.double(), expected(sums, *others), **close)

    codes, weight = codes_and_weight((3, 5), (4, 5), 2)  # 2-D, as of the time embedding
    right = onednn.pack_linear(weight) if packed else weight
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


@exact
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_large_samples_of_different_steps_equal_64_bit_sums(kernel: tuple[int, int]) -> None:
    codes, weight = codes_and_weight((3, 34, 34, 64), (16, 64, *kernel), 0)
    assert codes[0].numel() >= onednn.OWN_PRODUCT
    weight_scale, scale, bias, step = scales(16, 3, 3, True, 1)
    assert len(set(step.tolist())) > 1
    packed = onednn.pack_conv2d(weight, [1, 1], [1, 1], 1)
    geometry = (list(kernel), [1, 1], [1, 1], 1)
    tables = (weight_scale, scale, bias, step)
    found = ops.int_conv2d(codes, packed, *tables, *geometry, torch.float32)
    sums = F.conv2d(codes.permute(0, 3, 1, 2).double(), weight.double()).permute(0, 2, 3, 1)
    torch.testing.assert_close(
        found.double(), expected(sums, *tables), rtol=1e-5, atol=1e-3, check_stride=False
    )
