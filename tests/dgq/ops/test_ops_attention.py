"""Attention kernels against softmax attention in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dgq import ops
from dgq.ops import native, reference
from tests.left_to_torch import attending, is_left_to_torch

SIZES = [  # queries, keys, heads, head_dim
    (1, 1, 1, 2),
    (5, 1, 2, 8),
    (1, 77, 2, 16),
    (7, 63, 3, 5),
    (49, 64, 1, 40),
    (48, 65, 2, 15),
    (50, 77, 2, 80),
    (13, 129, 1, 1),
    (97, 300, 2, 33),
    (20, 257, 1, 160),
    (64, 576, 1, 64),
    # Each number of whole and half vectors of columns, of keys (16 or 32) and dims (8).
    (6, 17, 1, 24),
    (13, 33, 2, 48),
    (7, 145, 1, 56),
    (50, 112, 1, 104),
]


Attention = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]


@pytest.fixture(params=["tiles", "vectors"])
def attention(request: pytest.FixtureRequest) -> Attention:
    """Each kernel of ours in turn; where there are none, the operators use torch's."""
    kernels = native.kernels()
    if request.param == "vectors":
        return ops.attention.without_tiles
    if kernels is None or not kernels.tile_attention:
        pytest.skip("this CPU multiplies no tiles of bfloat16")
    return ops.attention


def inputs(sizes: tuple[int, int, int, int], size: float = 1.0, batch: int = 2) -> list[Tensor]:
    queries, keys, heads, dim = sizes
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, n, heads * dim) for n in (queries, keys, keys)]
    return [(torch.randn(s, generator=generator) * size).to(torch.bfloat16) for s in shapes]


def by_hand(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    q, k, v = (x.double().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return ((q @ k.transpose(-1, -2) * scale).softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("size", [1.0, 4.0])
def test_attention_in_bfloat16_is_as_exact_as_its_type(
    attention: Attention, sizes: tuple[int, int, int, int], size: float
) -> None:
    heads, dim = sizes[2:]
    q, k, v = inputs(sizes, size)
    found = attention(q, k, v, heads, 1 / math.sqrt(dim))
    expected = by_hand(q, k, v, heads, 1 / math.sqrt(dim))
    assert found.dtype == torch.bfloat16
    assert found.shape == q.shape
    # bfloat16 keeps 8 bits: of the scores, each an average's weight, and of the output.
    tolerance = 2**-8 * float(v.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=2**-7, atol=tolerance)
    assert (found.double() - expected).norm() < 2**-8 * expected.norm()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("keys", [1, 64, 65, 300])
def test_large_logits_neither_overflow_nor_vanish(
    attention: Attention, sign: int, keys: int
) -> None:
    q, k, v = inputs((9, keys, 1, 16), 1.0)
    q, k = q.abs() * 1000, k.abs() * 1000 * sign  # logits of up to 1e7, all of one sign
    found = attention(q, k, v, 1, 0.25)
    assert found.isfinite().all()
    best = (q.double() @ k.double().transpose(-1, -2)).argmax(-1)
    picked = torch.gather(v, 1, best[..., None].expand(-1, -1, 16))
    torch.testing.assert_close(found, picked, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("scale", [-0.2, 0.0, 1e-30, 1e8, 1e10, 1e30])
def test_the_scale_may_be_anything(attention: Attention, scale: float) -> None:
    q, k, v = inputs((9, 300, 2, 40))
    found, expected = attention(q, k, v, 2, scale), by_hand(q, k, v, 2, scale)
    torch.testing.assert_close(found.double(), expected, rtol=2**-6, atol=2**-7 * 4)


@pytest.mark.parametrize(("size", "scale"), [(1e15, 1e-27), (1e18, 1e-10)])
def test_logits_may_all_lie_far_below_zero(attention: Attention, size: float, scale: float) -> None:
    q, k, v = inputs((9, 300, 1, 40))
    q, k = (q.abs() + 0.5) * size, -(k.abs() + 0.5) * size
    found, expected = attention(q, k, v, 1, scale), by_hand(q, k, v, 1, scale)
    torch.testing.assert_close(found.double(), expected, rtol=2**-6, atol=2**-7 * 4)


def test_without_keys_the_output_is_torchs() -> None:
    q, k, v = inputs((2, 0, 1, 8))
    assert torch.equal(ops.attention(q, k, v, 1, 1.0), torch.zeros_like(q))


@pytest.mark.parametrize("place", [0, 63, 64, 76])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_meets_a_nan_becomes_one(attention: Attention, which: int, place: int) -> None:
    operands = inputs((80, 77, 2, 40), batch=1)
    operands[which][0, place, 1] = torch.nan
    found = attention(*operands, 2, 0.2).isnan()
    assert torch.equal(found, by_hand(*operands, 2, 0.2).isnan())
    assert found.any()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_meets_an_infinity_is_not_finite(attention: Attention, which: int) -> None:
    kernels = native.kernels()
    if kernels is None or not kernels.attention:
        pytest.skip("torch's attention may score an infinite key as 0")
    operands = inputs((80, 300, 2, 40), batch=1)
    operands[which][0, 70, 1] = torch.inf
    found, expected = attention(*operands, 2, 0.2), by_hand(*operands, 2, 0.2)
    assert not bool((found.isfinite() & ~expected.isfinite()).any())
    assert found[..., 40:].isfinite().all()  # the other head
    if which == 0:
        assert torch.equal(found.isfinite(), expected.isfinite())


@pytest.mark.parametrize("keys", [31, 32, 33, 255, 256, 257, 288])
def test_keys_that_are_not_there_take_no_part(attention: Attention, keys: int) -> None:
    q, k, v = inputs((5, keys, 1, 16))
    # The logits of absent keys would be 0, and these are all far below.
    found = attention(q.abs() + 1, -k.abs() - 1, v, 1, 4.0)
    expected = by_hand(q.abs() + 1, -k.abs() - 1, v, 1, 4.0)
    torch.testing.assert_close(found.double(), expected, rtol=2**-6, atol=2**-7 * 4)


def test_scores_of_equal_logits_are_equal(attention: Attention) -> None:
    ones = torch.eye(64, dtype=torch.bfloat16)[None]
    scores = attention(torch.zeros(1, 3, 64).bfloat16(), ones, ones, 1, 1.0)
    assert torch.equal(scores, torch.full_like(scores, 1 / 64))


def test_scores_follow_the_exponential_of_their_logits(attention: Attention) -> None:
    # One key has the logit 0, each other one a logit of its own; values pick out the scores.
    logits = torch.linspace(-8, 0, 64).bfloat16()
    query, keys = torch.ones(1, 1, 64).bfloat16(), torch.diag(logits)[None]
    scores = attention(query, keys, torch.eye(64).bfloat16()[None], 1, 1.0)[0, 0]
    error = scores.double() / logits.double().softmax(-1) - 1
    # Twice half a bit: as scores are made, and as the output is rounded.
    assert error.abs().max() < 2 * 2**-8
    assert error.mean().abs() < 2**-10


def test_a_row_whose_maximum_comes_last_is_rescaled(attention: Attention) -> None:
    q, k, v = inputs((7, 600, 1, 8))
    k *= torch.linspace(0.01, 20, 600)[:, None].to(torch.bfloat16)
    found = attention(q, k, v, 1, 1.0)
    torch.testing.assert_close(found.double(), by_hand(q, k, v, 1, 1.0), rtol=2**-6, atol=2**-7 * 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_compiler_values_are_the_same(dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in inputs((50, 77, 2, 40)))
    found, expected = ops.attention(q, k, v, 2, 0.2), reference.attention(q, k, v, 2, 0.2)
    close = {"rtol": 2**-6, "atol": 2**-7} if dtype == torch.bfloat16 else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(found, expected, **close)


@attending
def test_our_kernels_attend_in_bfloat16_alone() -> None:
    q, k, v = inputs((5, 7, 2, 8))
    assert not is_left_to_torch(ops.attention, q, k, v, 2, 0.3)
    assert not is_left_to_torch(ops.attention.without_tiles, q, k, v, 2, 0.3)
    for operands in (
        (q.float(), k.float(), v.float(), 2, 0.3),
        (q, k.float(), v, 2, 0.3),
        (q, k, v[:, :6], 2, 0.3),
        (q, k[:1], v[:1], 2, 0.3),
        (q, k, v, 3, 0.3),
        (q, k, v, 0, 0.3),
        (q, k, v, 2, -0.3),
        (q[:, 0], k[:, 0], v[:, 0], 2, 0.3),
        (q, k[:, :0], v[:, :0], 2, 0.3),
    ):
        assert is_left_to_torch(ops.attention, *operands)


def test_tensors_of_other_sizes_are_an_error_and_never_read_beyond() -> None:
    q, k, v = inputs((5, 7, 2, 8))
    with pytest.raises(RuntimeError):
        ops.attention(q, k[..., :8], v[..., :8], 2, 1.0)


def test_the_operator_is_a_good_citizen() -> None:
    q, k, v = inputs((6, 9, 2, 4))
    torch.library.opcheck(torch.ops.dgq.attention.default, (q, k, v, 2, 0.5))
    wide = [x.float() for x in (q, k, v)]
    torch.library.opcheck(torch.ops.dgq.attention.default, (*wide, 2, 0.5))
