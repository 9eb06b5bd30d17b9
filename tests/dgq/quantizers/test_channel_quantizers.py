"""Scales by channel: every formula once more with loops, and the integer product they are for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.math.multiples import possible_multiples, shared_multiple
from dgq.quantizers.exponent_quantizer import ExponentQuantizer
from dgq.quantizers.multiple_quantizer import MultipleQuantizer
from dgq.quantizers.weight_quantizer import WeightQuantizer
from dgq.settings import ActivationSettings, WeightSettings
from dgq.unet.calls import FIRST_STEP, SamplerCall
from dgq.unet.context import QuantizationContext
from tests.observed import fitted_, learn_ranges_, randn, uneven

Quantizer = ExponentQuantizer | MultipleQuantizer
KINDS: dict[str, type[Quantizer]] = {"exponents": ExponentQuantizer, "multiples": MultipleQuantizer}
both = pytest.mark.parametrize("kind", KINDS)


def fitted(
    kind: str,
    x: Tensor,
    step: Tensor = FIRST_STEP,
    n_bits: int = 8,
    max_exponent: int = 2,
    padded: bool = False,
    per_step: bool = True,
    n_steps: int = 1,
) -> Quantizer:
    """A quantizer calibrated on ``x``, whose context stands at its steps."""
    context = QuantizationContext(range(n_steps), (4, 4))
    activations = ActivationSettings(n_bits, kind, max_exponent=max_exponent, per_step=per_step)  # type: ignore[arg-type]
    return fitted_(KINDS[kind](activations, context, padded=padded), x, step)


def pattern(quantizer: Quantizer) -> Tensor:
    """What is the same for all steps."""
    return quantizer.exponent if isinstance(quantizer, ExponentQuantizer) else quantizer.multiple


def finest_scale(quantizer: Quantizer) -> np.ndarray:
    """The unit of all scales at each step, in float64."""
    largest = quantizer.settings.max_exponent if isinstance(quantizer, ExponentQuantizer) else 0
    scale: np.ndarray = quantizer.scale.double().numpy() * 2.0**-largest
    return scale


def multiples(quantizer: Quantizer) -> np.ndarray:
    """The scale of each channel in this unit."""
    if isinstance(quantizer, MultipleQuantizer):
        return quantizer.multiple.long().numpy()
    return np.asarray(2 ** (quantizer.settings.max_exponent - quantizer.exponent.long().numpy()))


def by_hand(quantizer: Quantizer, x: np.ndarray, steps: list[int]) -> np.ndarray:
    """The contract, value by value in float64: ``[batch, channels, ...]``."""
    qmax = 2**quantizer.settings.n_bits - 1
    out = np.empty(x.shape)
    for b, step in enumerate(steps):
        for c in range(x.shape[1]):
            scale = finest_scale(quantizer)[step] * multiples(quantizer)[c]
            zero_point = int(quantizer.zero_point[step, c])
            codes = np.clip(np.rint(x[b, c].astype(np.float64) / scale) + zero_point, 0, qmax)
            out[b, c] = scale * (codes - zero_point)
    return out


@both
@pytest.mark.parametrize("max_exponent", [0, 1, 3])
@pytest.mark.parametrize("n_bits", [3, 8])
def test_equals_the_contract_written_with_loops(kind: str, n_bits: int, max_exponent: int) -> None:
    x, step = uneven(4, 6, 3, 3), torch.tensor([0, 1, 0, 1])
    quantizer = fitted(kind, x, step, n_bits, max_exponent, n_steps=2)
    assert quantizer.scale.shape == (2,)
    assert quantizer.scale.dtype == torch.float32
    assert quantizer.zero_point.shape == (2, 6)
    assert quantizer.zero_point.dtype == torch.int32
    assert pattern(quantizer).shape == (6,)
    assert pattern(quantizer).dtype == {"exponents": torch.uint8, "multiples": torch.int16}[kind]
    expected = by_hand(quantizer, x.numpy(), step.tolist())
    np.testing.assert_allclose(quantizer(x).numpy(), expected, rtol=1e-6)


def test_exponents_follow_the_widths_of_the_channels() -> None:
    ends = torch.tensor([[-8.0, 0.0], [0.0, 8.0], [-1.0, 0.0], [-2.0, 2.0]])
    quantizer = fitted("exponents", ends.view(1, 4, 2, 1), max_exponent=4)
    assert pattern(quantizer).tolist() == [0, 0, 3, 1]


@both
def test_channels_of_tokens_are_the_last_axis(kind: str) -> None:
    x = uneven(2, 5, 4, 4)
    tokens = x.flatten(2).transpose(1, 2)
    expected = fitted(kind, x, n_bits=5)(x).flatten(2).transpose(1, 2)
    assert torch.equal(fitted(kind, tokens, n_bits=5)(tokens), expected)


@both
def test_two_dimensional_inputs_are_per_tensor(kind: str) -> None:
    x = uneven(3, 8)
    quantizer = fitted(kind, x, n_bits=6)
    assert pattern(quantizer).shape == (1,)
    assert quantizer.zero_point.shape == (1, 1)
    np.testing.assert_allclose(
        quantizer(x).numpy(), by_hand(quantizer, x[:, None].numpy(), [0] * 3)[:, 0], rtol=1e-6
    )


@both
@settings(max_examples=60)
@given(
    n_bits=st.sampled_from([2, 4, 6, 8]),
    max_exponent=st.integers(0, 7),
    channels=st.integers(1, 7),
    padded=st.booleans(),
    values=st.sampled_from(["cubed", "constant", "dead", "far", "all dead"]),
    seed=st.integers(0, 10_000),
)
def test_calibration_data_is_never_clipped_beyond_half_a_step(
    kind: str, n_bits: int, max_exponent: int, channels: int, padded: bool, values: str, seed: int
) -> None:
    x, step = randn(4, channels, 3, 3, seed=seed).pow(3) + seed % 7, torch.tensor([0, 1, 0, 1])
    if values == "constant":
        x[:, 0] = seed / 100
    elif values == "dead":
        x[:, 0] = 0
    elif values == "far":
        x[:, -1] += 1e4
    elif values == "all dead":
        x = torch.zeros_like(x)
    quantizer = fitted(kind, x, step, n_bits, max_exponent, padded, n_steps=2)
    scale, zero_point = quantizer.parameters_of(x)
    assert ((quantizer(x) - x).abs() <= scale / 2 + x.abs() * 1e-6).all()
    possible = possible_multiples(n_bits, max_exponent).tolist()
    assert {*multiples(quantizer).tolist()} <= {*possible}
    qmax = 2**n_bits - 1
    for used_or_stored in (zero_point, quantizer.zero_point):
        assert used_or_stored.min() >= (0 if padded else -qmax)
        assert used_or_stored.max() <= (qmax if padded else 2 * qmax)
    if padded:
        assert torch.equal(quantizer(torch.zeros_like(x)), torch.zeros_like(x))


@both
@pytest.mark.parametrize("padded", [False, True])
def test_the_base_scale_is_as_tight_as_the_channels_allow(kind: str, padded: bool) -> None:
    x, step = uneven(6, 5, 4, 4), torch.tensor([0, 1, 2] * 2)
    quantizer = fitted(kind, x, step, 8, 3, padded, n_steps=3)
    for s in range(3):
        values = x[step == s].transpose(0, 1).flatten(1).double().numpy()
        needed = []
        for row, multiple in zip(values, multiples(quantizer), strict=True):
            low, high = row.min(), row.max()
            low, high = min(low, 0 if padded else high / 2), max(high, 0 if padded else low / 2)
            needed.append((high - low) / 255 / multiple)
        assert finest_scale(quantizer)[s] == pytest.approx(max(needed), rel=1e-6)


@both
@pytest.mark.parametrize("padded", [False, True])
def test_every_range_is_centred_in_its_codes_as_far_as_zero_points_reach(
    kind: str, padded: bool
) -> None:
    x = uneven(8, 6, 4, 4)
    quantizer = fitted(kind, x, n_bits=8, max_exponent=3, padded=padded)
    scale, zero_point = quantizer.parameters_of(x)
    codes = (x / scale).round() + zero_point
    below, above = codes.amin((0, 2, 3)), 255 - codes.amax((0, 2, 3))
    lowest = zero_point.flatten() == (0 if padded else -255)
    # Each end is rounded by itself, and so is the middle.
    assert ((below - above).abs() <= 2)[~lowest].all()
    assert (below >= above)[lowest].all()


@both
def test_without_exponents_all_channels_have_one_scale_and_their_own_zero_points(
    kind: str,
) -> None:
    x = randn(4, 6, 3, 3) + torch.arange(6.0).view(-1, 1, 1) / 4
    quantizer = fitted(kind, x, n_bits=6, max_exponent=0)
    assert multiples(quantizer).tolist() == [1] * 6
    assert len(set(quantizer.zero_point[0].tolist())) > 1
    scale, _ = quantizer.parameters_of(x)
    assert scale.unique().numel() == 1


@both
def test_more_exponents_lose_less_where_channels_differ(kind: str) -> None:
    x = uneven(4, 32, 4, 4)
    fits = [fitted(kind, x, n_bits=4, max_exponent=k) for k in (0, 1, 3)]
    errors = [(quantizer(x) - x).pow(2).sum().item() for quantizer in fits]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < errors[0] / 2


def test_multiples_lose_less_than_exponents_of_the_same_room() -> None:
    x = uneven(4, 64, 4, 4)
    fits = [fitted(kind, x, n_bits=4, max_exponent=6) for kind in ("multiples", "exponents")]
    ours, theirs = ((quantizer(x) - x).pow(2).sum() for quantizer in fits)
    assert ours < 0.8 * theirs


@both
def test_static_ranges_span_all_steps(kind: str) -> None:
    x = randn(2, 5, 3, 3)
    x[1] *= 20
    quantizer = fitted(kind, x, torch.tensor([0, 1]), per_step=False, n_steps=2)
    assert quantizer.scale.shape == (1,)
    np.testing.assert_allclose(
        quantizer(x).numpy(), by_hand(quantizer, x.numpy(), [0, 0]), rtol=1e-6
    )


@both
def test_each_sample_of_a_batch_has_the_scales_of_its_own_step(kind: str) -> None:
    x, step = uneven(2, 5, 3, 3), torch.tensor([0, 1])
    x[1] *= 20
    quantizer = fitted(kind, x, step, n_steps=2)
    together = quantizer(x)
    for sample in range(2):
        quantizer.context.current = SamplerCall(step[sample : sample + 1], (4, 4))
        assert torch.equal(quantizer(x[sample : sample + 1])[0], together[sample])


def folded_product(quantizer: Quantizer, weights: WeightQuantizer, x: np.ndarray) -> np.ndarray:
    """A linear layer in whole numbers: ``x [rows, channels]``."""
    n_bits, channels = quantizer.settings.n_bits, x.shape[1]
    scale, zero_point = finest_scale(quantizer)[0], quantizer.zero_point[0].long().numpy()
    multiple = multiples(quantizer)
    q = np.rint(x / (scale * multiple)).astype(np.int64) + zero_point
    q = q.clip(0, 2**n_bits - 1)
    shared = shared_multiple(torch.from_numpy(multiple), n_bits, quantizer.settings.max_exponent)
    on_codes, on_weights = (factor.numpy() for factor in shared)
    codes = torch.stack([weights.codes & 15, weights.codes >> 4], -1).flatten(1)[:, :channels]
    groups = np.arange(channels) // weights.settings.group_size
    shift = weights.settings.max_exponent - weights.exponent.long().numpy()[:, groups]
    difference = codes.long().numpy() - weights.zero_point.long().numpy()[:, None]
    folded = (difference << shift) * on_weights
    assert (q * on_codes).max() <= 255
    assert folded.min() >= -128
    assert folded.max() <= 127
    accumulated = (q * on_codes) @ folded.T - ((zero_point * on_codes) * folded).sum(1)
    by_output = weights.scale.double().numpy() * 2.0**-weights.settings.max_exponent
    product: np.ndarray = scale * by_output * accumulated
    return product


@pytest.mark.parametrize(
    ("kind", "n_bits", "symmetric", "on_weights", "on_activations"),
    [
        *((kind, 8, False, 1, 2) for kind in KINDS),
        *((kind, 8, True, 2, 2) for kind in KINDS),
        *((kind, 4, False, 3, 2) for kind in KINDS),
        ("exponents", 6, False, 1, 4),
        ("exponents", 4, True, 3, 5),
        ("multiples", 6, True, 2, 4),
        ("multiples", 4, True, 2, 6),
    ],
)
def test_a_layer_is_one_integer_product(
    kind: str, n_bits: int, symmetric: bool, on_weights: int, on_activations: int
) -> None:
    x = uneven(16, 37)[:, None]  # [rows, 1 token, channels]
    quantizer = fitted(kind, x, n_bits=n_bits, max_exponent=on_activations)
    weight = randn(9, 37, seed=1).pow(3)
    group_settings = WeightSettings(
        4, "minmax", symmetric=symmetric, group_size=8, max_exponent=on_weights
    )
    weights = WeightQuantizer(group_settings, weight.shape)
    weights.start_learning_(weight)
    weights.harden_(None)
    assert len(set(multiples(quantizer).tolist())) > 1
    assert weights.exponent.unique().numel() > 1
    simulated = nn.functional.linear(quantizer(x)[:, 0].double(), weights(None)[0].double())
    found = folded_product(quantizer, weights, x[:, 0].double().numpy())
    size = np.abs(simulated.numpy()).max()
    np.testing.assert_allclose(found, simulated.numpy(), rtol=1e-5, atol=1e-5 * size)


@both
def test_learning_lowers_the_error_of_few_bits_and_leaves_other_steps_alone(kind: str) -> None:
    step = torch.tensor([0, 1] * 32)
    x, held_out = uneven(64, 6, 4, 4), uneven(64, 6, 4, 4, seed=1)
    quantizer = fitted(kind, x, step, 3, n_steps=2)
    before = (quantizer(held_out) - held_out).square().mean()
    quantizer.start_learning_()
    assert torch.equal((quantizer(held_out) - held_out).square().mean(), before)
    quantizer.context.current = SamplerCall(torch.tensor([1]), (4, 4))
    untouched = quantizer.scale[0].clone(), quantizer.zero_point[0].clone()
    learn_ranges_(quantizer, x)
    learned = quantizer(held_out)
    quantizer.harden_()
    assert (learned - held_out).square().mean() < 0.8 * before
    torch.testing.assert_close(quantizer(held_out), learned)
    assert torch.equal(quantizer.scale[0], untouched[0])
    assert torch.equal(quantizer.zero_point[0], untouched[1])
    assert quantizer.zero_point.dtype == torch.int32
    assert quantizer.learnable is not None
    assert not quantizer.learnable.active


@both
def test_learned_zero_points_of_padded_inputs_stay_among_the_codes(kind: str) -> None:
    x = uneven(8, 6, 4, 4)
    quantizer = fitted(kind, x, n_bits=4, padded=True)
    quantizer.start_learning_()
    assert quantizer.learnable is not None
    quantizer.learnable.shift.data += 3
    quantizer.harden_()
    assert quantizer.zero_point.tolist() == [[15] * 6]


def test_an_uncalibrated_quantizer_says_so() -> None:
    context = QuantizationContext([0], (2, 2))
    quantizer = ExponentQuantizer(ActivationSettings(8, "exponents"), context)
    with pytest.raises(DGQError, match="no scales"):
        quantizer(randn(1, 3, 2, 2))
