"""DGQ's groups and scores, from observed values to quantized ones; degenerate inputs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq.errors import DGQError
from dgq.math import affine
from dgq.math.affine import fake_quantize
from dgq.math.grouping import group_ranges, kmeans
from dgq.math.log_scores import log_quantize_but_start, log_quantize_live
from dgq.quantizers.activation_quantizer import PIXEL, ActivationQuantizer
from dgq.quantizers.scores import LogScoreQuantizer
from dgq.settings import ActivationSettings
from dgq.unet.context import QuantizationContext, at_step
from tests.fidelity.formulas import log_score, quantized, span, spread

STEPS = (901.0, 401.0)


@settings(max_examples=300, deadline=None)
@given(
    x=st.floats(-1e30, 1e30),
    scale=st.floats(1e-30, 1e30),
    zero_point=st.integers(-1000, 1000),
    n_bits=st.integers(2, 8),
)
def test_fake_quantization_of_one_number(
    x: float, scale: float, zero_point: int, n_bits: int
) -> None:
    if math.isinf(x / scale):
        return
    operands = [torch.tensor(v, dtype=torch.float64) for v in (x, scale, zero_point)]
    expected = quantized(x, scale, zero_point, n_bits)
    assert fake_quantize(*operands, n_bits).item() == pytest.approx(expected, rel=1e-15)
    with torch.no_grad():
        assert fake_quantize(*operands, n_bits).item() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("gradients", [True, False])
def test_what_is_not_a_number_is_not_hidden(gradients: bool) -> None:
    x = torch.tensor([float("nan"), 1.0])
    with torch.set_grad_enabled(gradients):
        found = fake_quantize(x, torch.tensor(0.5), torch.tensor(3), 4)
        scores = log_quantize_live(x.view(1, 1, 1, 2) / 2, 4)
    assert found[0].isnan()
    assert scores.isnan().any()


def quantizer_of(settings: ActivationSettings) -> ActivationQuantizer:
    quantizer = ActivationQuantizer(settings, QuantizationContext(STEPS, (2, 2)))
    quantizer.start_observing_()
    return quantizer


def observed(quantizer: ActivationQuantizer, samples: list[Tensor]) -> ActivationQuantizer:
    """The quantizer fitted to one batch ``[batch, tokens, channels]`` for each step."""
    for step, x in enumerate(samples):
        quantizer.require_observer().update(x, torch.tensor([step]))
    quantizer.fit_()
    return quantizer


def random_samples() -> list[Tensor]:
    """Tokens ``[3, 5, 6]`` at two steps; channels differ more than tokens do."""
    generator = torch.Generator().manual_seed(0)
    width = torch.tensor([0.1, 1.0, 8.0, 0.2, 1.1, 30.0])
    return [torch.randn(3, 5, 6, generator=generator) * width + width for _ in STEPS]


@pytest.mark.parametrize("n_bits", [2, 4, 6, 8])
@pytest.mark.parametrize("per_step", [True, False])
@pytest.mark.parametrize("n_groups", [1, 2, 3, 6])
def test_groups_from_observed_values_to_quantized_ones(
    n_groups: int, per_step: bool, n_bits: int
) -> None:
    samples = random_samples()
    quantizer = observed(
        quantizer_of(ActivationSettings(n_bits, n_groups=n_groups, per_step=per_step)), samples
    )
    quantizer.context.activations, quantizer.context.observing = True, False
    for step, x in enumerate(samples):
        seen = [x] if per_step else samples
        low = [min(float(s[..., c].min()) for s in seen) for c in range(6)]
        high = [max(float(s[..., c].max()) for s in seen) for c in range(6)]
        members = quantizer.group_index[step if per_step else 0].tolist()
        assert len(set(members)) == n_groups
        with at_step(quantizer.context, torch.tensor([step])):
            found = quantizer(x)
        for c in range(6):
            group = [i for i in range(6) if members[i] == members[c]]
            scale, zero_point = span(
                min(low[i] for i in group), max(high[i] for i in group), n_bits
            )
            expected = [
                quantized(v, scale, zero_point, n_bits) for v in x[..., c].flatten().tolist()
            ]
            off = (found[..., c].flatten() - torch.tensor(expected)).abs()
            # A value between two codes may fall to either side in float32.
            assert ((off < 1e-5 * scale * 2**n_bits) | ((off / scale - 1).abs() < 1e-3)).all()
            assert (off > 0.5 * scale).float().mean() < 0.1


@settings(max_examples=100, deadline=None)
@given(data=st.data(), pixels=st.integers(1, 4), channels=st.integers(1, 4))
def test_the_axis_with_the_larger_spread_over_all_steps_is_grouped(
    data: st.DataObject, pixels: int, channels: int
) -> None:
    n = 2 * pixels * channels
    numbers = data.draw(st.lists(st.integers(-20, 20), min_size=n, max_size=n))
    x = torch.tensor(numbers, dtype=torch.float32).view(2, 1, pixels, channels)
    quantizer = observed(quantizer_of(ActivationSettings(8, n_groups=2)), list(x))
    spreads = [0.0, 0.0]
    for step in x[:, 0]:
        for axis in (0, 1):  # reduced: the pixels for channels, the channels for pixels
            spreads[axis] += spread(step.amin(axis).tolist(), step.amax(axis).tolist())
    assert (int(quantizer.axis) == PIXEL) == (spreads[1] > spreads[0])


@settings(max_examples=150, deadline=None)
@given(
    ranges=st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 4)), min_size=1, max_size=10),
    n_groups=st.integers(1, 16),
    magnitude=st.sampled_from([1e-6, 1.0, 1e9]),
)
def test_there_are_as_many_groups_as_distinct_points_allow(
    ranges: list[tuple[int, int]], n_groups: int, magnitude: float
) -> None:
    low = torch.tensor([[float(lo) for lo, _ in ranges]]) * magnitude
    high = low + torch.tensor([[float(w) for _, w in ranges]]) * magnitude
    groups = group_ranges(low, high, n_groups)
    index, distinct = groups.member_group[0].tolist(), len(set(ranges))
    if n_groups < len(ranges):
        assert len(set(index)) == min(n_groups, distinct)
        for (a, i), (b, j) in zip(
            zip(ranges, index, strict=True),
            list(zip(ranges, index, strict=True))[1:],
            strict=False,
        ):
            assert a != b or i == j  # equal points lie in one group
    scale, zero_point = affine.affine_parameters(groups.low, groups.high, 4)
    assert (scale > 0).all()
    assert (scale.isfinite() & zero_point.isfinite()).all()


def test_of_equal_points_and_centres_the_first_is_taken() -> None:
    # The mean is 3. Of 2 and 4, which are as near, 2 is the first centre; the farthest is 6.
    points = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [6.0, 0.0]]])
    first_seeds = [2.0, 6.0]
    near = [min((abs(x - c), i) for i, c in enumerate(first_seeds))[1] for x in (0, 2, 4, 6)]
    assert near == [0, 0, 0, 1]  # 4 lies half way to both
    # The means are then 2 and 6, and nothing moves.
    assert kmeans(points, 2)[0].tolist() == near


@pytest.mark.parametrize("value", [0.0, 2.5, -7.0, 1e-20, 1e20])
@pytest.mark.parametrize("n_bits", [2, 8])
def test_constant_and_dead_activations(value: float, n_bits: int) -> None:
    x = torch.full((2, 3, 4), value)
    quantizer = observed(quantizer_of(ActivationSettings(n_bits, n_groups=2)), [x, x])
    quantizer.context.activations, quantizer.context.observing = True, False
    with at_step(quantizer.context, torch.tensor([0])):
        torch.testing.assert_close(quantizer(x), x, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_activations_that_are_not_finite_are_refused(bad: float) -> None:
    x = torch.zeros(2, 3, 4)
    x[1, 2, 3], x[1, 1, 3] = bad, -3e38
    quantizer = quantizer_of(ActivationSettings(8))
    with pytest.raises(DGQError, match="not finite"):
        observed(quantizer, [x, torch.ones(2, 3, 4)])


@settings(max_examples=100, deadline=None)
@given(
    numbers=st.lists(st.floats(0, 1), min_size=8, max_size=8),
    start=st.booleans(),
    n_bits=st.integers(2, 8),
)
def test_log_scores_number_by_number(numbers: list[float], start: bool, n_bits: int) -> None:
    p = torch.tensor(numbers, dtype=torch.float64).view(1, 1, 2, 4)
    found = (log_quantize_but_start if start else log_quantize_live)(p, n_bits)
    kept = 1 if start else 0
    d = p[..., kept:].max().item()
    for row, out in zip(p[0, 0].tolist(), found[0, 0].tolist(), strict=True):
        expected = row[:kept] + [log_score(x, d, n_bits) for x in row[kept:]]
        for x, a, b in zip(row, out, expected, strict=True):
            tie = x > 0 and abs((math.log2(x / d) % 1) - 0.5) < 1e-9
            assert a == pytest.approx(b, rel=1e-12) or tie


def test_log_scores_round_the_logarithm_and_not_the_ratio() -> None:
    """0.6 is nearer to 1/2 than to 1 on a logarithmic axis up to 2^-0.5 = 0.7071, not 0.75."""
    p = torch.tensor([1.0, 0.7072, 0.7070, 0.36, 0.35]).view(1, 1, 1, 5)
    assert log_quantize_live(p, 4).flatten().tolist() == [1.0, 1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("size", [1.0, 3e-5])
def test_log_scores_of_half_precision_are_those_of_their_values(
    dtype: torch.dtype, start: bool, size: float
) -> None:
    """The formula on the very values; logarithms in half precision round to the next power.

    Also with a maximum below the normal numbers of float16, as if all attention went to <start>.
    """
    logits = torch.randn(2, 2, 16, 12, generator=torch.Generator().manual_seed(0))
    scores = ((3 * logits).softmax(-1) * size).to(dtype)
    found = LogScoreQuantizer(4, keep_start=start)(scores)
    assert found.dtype == dtype
    for before, after in zip(scores, found, strict=True):
        rest = before[..., start:].flatten().tolist()
        expected = [log_score(p, max(rest), 4) for p in rest]
        assert torch.equal(after[..., start:].flatten(), torch.tensor(expected).to(dtype))
        assert not start or torch.equal(after[..., 0], before[..., 0])
