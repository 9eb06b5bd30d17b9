"""Activation quantizers: groups per channel by hand, what is never clipped, other resolutions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq.errors import DGQError
from dgq.quantizers.activation_quantizer import (
    CHANNEL,
    PIXEL,
    ActivationQuantizer,
    smallest_integers,
)
from dgq.settings import ActivationSettings
from dgq.unet.calls import FIRST_STEP, SamplerCall
from dgq.unet.context import QuantizationContext
from tests.observed import fitted_, randn


def fitted(
    x: Tensor,
    step: Tensor = FIRST_STEP,
    n_bits: int = 8,
    n_groups: int = 4,
    per_step: bool = True,
    n_steps: int = 1,
    of_text: bool = False,
) -> ActivationQuantizer:
    """A quantizer calibrated on ``x``, whose context stands at its steps."""
    context = QuantizationContext(range(n_steps), (4, 4))
    settings = ActivationSettings(n_bits, n_groups=n_groups, per_step=per_step)
    return fitted_(ActivationQuantizer(settings, context, of_text=of_text), x, step)


def outlier_channels(*shape: int) -> Tensor:
    """Channels (dimension 1) of very different sizes and offsets."""
    size = torch.logspace(-1, 1, shape[1]).view(-1, *[1] * (len(shape) - 2))
    return randn(*shape) * size + size.flip(0)


def quantized_by_hand(x: np.ndarray, low: float, high: float, n_bits: int) -> np.ndarray:
    qmax = np.float32(2**n_bits - 1)
    scale = np.float32(high - low) / qmax
    zero_point = np.rint(-low / scale)
    return scale * (np.clip(np.rint(x / scale) + zero_point, 0, qmax) - zero_point)


@pytest.mark.parametrize("n_bits", [4, 8])
def test_groups_of_one_channel_equal_a_loop_over_channels_and_steps(n_bits: int) -> None:
    x, step = outlier_channels(4, 6, 3, 3), torch.tensor([0, 1, 0, 1])
    quantizer = fitted(x, step, n_bits, n_groups=6, n_steps=2)
    assert quantizer.axis == CHANNEL
    expected = np.empty_like(x.numpy())
    for s in range(2):
        for channel in range(6):
            values = x[step == s, channel].numpy()
            expected[step.numpy() == s, channel] = quantized_by_hand(
                values, values.min(), values.max(), n_bits
            )
    np.testing.assert_array_equal(quantizer(x).numpy(), expected)


def test_one_group_equals_per_tensor() -> None:
    x = outlier_channels(2, 5, 4, 4)
    values = x.numpy()
    expected = quantized_by_hand(values, values.min(), values.max(), 6)
    np.testing.assert_array_equal(fitted(x, n_bits=6, n_groups=1)(x).numpy(), expected)


@pytest.mark.parametrize("tokens", [False, True])
def test_the_axis_with_the_larger_spread_is_grouped(tokens: bool) -> None:
    by_channel = outlier_channels(2, 16, 4, 4)
    by_pixel = by_channel.flatten(2).transpose(1, 2).reshape(2, 16, 4, 4)
    if tokens:
        by_channel, by_pixel = (x.flatten(2).transpose(1, 2) for x in (by_channel, by_pixel))
    assert fitted(by_channel).axis == CHANNEL
    assert fitted(by_pixel).axis == PIXEL


def test_pixel_groups_of_one_pixel_equal_a_loop_over_pixels() -> None:
    x = outlier_channels(2, 16, 4, 4).flatten(2).transpose(1, 2).reshape(2, 16, 4, 4)
    quantizer = fitted(x, n_bits=6, n_groups=16)
    expected = np.empty_like(x.numpy())
    for row in range(4):
        for column in range(4):
            values = x[:, :, row, column].numpy()
            expected[:, :, row, column] = quantized_by_hand(values, values.min(), values.max(), 6)
    assert quantizer.axis == PIXEL
    np.testing.assert_array_equal(quantizer(x).numpy(), expected)


def test_two_dimensional_inputs_are_per_tensor() -> None:
    x = outlier_channels(3, 8)
    quantizer = fitted(x, n_groups=8, n_bits=4)
    assert quantizer.scale.shape == (1, 1)
    expected = quantized_by_hand(x.numpy(), x.min().item(), x.max().item(), 4)
    np.testing.assert_array_equal(quantizer(x).numpy(), expected)


@settings(max_examples=40, deadline=None)
@given(
    n_groups=st.integers(1, 9),
    n_bits=st.sampled_from([2, 4, 8]),
    channels=st.integers(1, 7),
    pixels=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_calibration_data_is_never_clipped(
    n_groups: int, n_bits: int, channels: int, pixels: bool, seed: int
) -> None:
    x = randn(4, channels, 3, 3, seed=seed).pow(3) + seed % 7
    if pixels:
        x[..., 0] *= 50
    quantizer = fitted(x, torch.tensor([0, 1, 0, 1]), n_bits, n_groups, n_steps=2)
    scale, _ = quantizer.parameters_of(x)
    assert ((quantizer(x) - x).abs() <= scale / 2 + x.abs() * 1e-6).all()


def test_each_sample_of_a_batch_has_the_scales_of_its_own_step() -> None:
    x, step = outlier_channels(2, 5, 3, 3), torch.tensor([0, 1])
    x[1] *= 20
    quantizer = fitted(x, step, n_groups=2, n_steps=2)
    together = quantizer(x)
    for sample in range(2):
        quantizer.context.current = SamplerCall(step[sample : sample + 1], (4, 4))
        assert torch.equal(quantizer(x[sample : sample + 1])[0], together[sample])


def test_static_ranges_span_all_steps() -> None:
    x = randn(2, 5, 3, 3)
    x[1] *= 20
    quantizer = fitted(x, torch.tensor([0, 1]), n_groups=1, per_step=False, n_steps=2)
    assert quantizer.scale.shape == (1, 1)
    expected = quantized_by_hand(x.numpy(), x.min().item(), x.max().item(), 8)
    np.testing.assert_array_equal(quantizer(x).numpy(), expected)


def test_static_groups_of_pixels_span_all_steps() -> None:
    x = randn(2, 5, 4, 4)
    x[0, :, 0] *= 50
    x[1, :, 1] *= 50
    quantizer = fitted(x, torch.tensor([0, 1]), n_groups=16, per_step=False, n_steps=2)
    assert quantizer.axis == PIXEL
    found = quantizer(x).numpy()
    for row, column in np.ndindex(4, 4):
        values = x[:, :, row, column].numpy()
        expected = quantized_by_hand(values, values.min(), values.max(), 8)
        np.testing.assert_array_equal(found[:, :, row, column], expected)


def test_more_groups_lose_less_where_channels_differ() -> None:
    x = outlier_channels(4, 32, 4, 4)
    errors = [(fitted(x, n_groups=g, n_bits=4)(x) - x).pow(2).sum().item() for g in (1, 2, 8, 32)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < errors[0] / 4


@pytest.mark.parametrize(("size", "tokens"), [((8, 8), False), ((2, 2), False), ((8, 8), True)])
def test_pixel_groups_are_resized_to_another_resolution(
    size: tuple[int, int], tokens: bool
) -> None:
    calibration = randn(2, 3, 4, 4)
    calibration[:, :, 0, :] *= 100  # outliers in the top row
    x = torch.nn.functional.interpolate(calibration, size, mode="nearest")
    if tokens:
        calibration, x = (t.flatten(2).transpose(1, 2) for t in (calibration, x))
    quantizer = fitted(calibration, n_bits=8, n_groups=2)
    assert quantizer.axis == PIXEL
    quantizer.context.current = SamplerCall(FIRST_STEP, size)
    scale, _ = quantizer.parameters_of(x)
    grid = scale.flatten().view(size)
    top = size[0] // 4 or 1
    assert (grid[:top] > 10 * grid[-1, 0]).all()
    assert (grid[top:] == grid[-1, 0]).all()
    assert ((quantizer(x) - x).abs() <= scale / 2 * 1.0001).all()


def test_pixel_groups_survive_another_aspect_with_as_many_pixels() -> None:
    calibration = randn(2, 3, 4, 4)
    calibration[:, :, 0, :] *= 100  # outliers in the top row
    quantizer = fitted(calibration, n_groups=2)
    quantizer.context.current = SamplerCall(FIRST_STEP, (2, 8))
    scale, _ = quantizer.parameters_of(randn(1, 3, 2, 8))
    # The top row of two stands for the top two of four: it must have one scale, as must the lower.
    assert scale[0, 0, 0].unique().numel() == 1
    assert scale[0, 0, 1].unique().numel() == 1


def test_groups_of_words_do_not_move_with_the_aspect_of_the_image() -> None:
    text = outlier_channels(2, 16, 6)  # 16 words of very different sizes
    quantizer = fitted(text, n_groups=4, of_text=True)
    expected = quantizer(text)
    assert quantizer.axis == PIXEL
    quantizer.context.current = SamplerCall(FIRST_STEP, (2, 8))
    assert torch.equal(quantizer(text), expected)
    quantizer.of_text = False
    assert not torch.equal(quantizer(text), expected)


def test_words_of_shorter_and_longer_texts_keep_their_groups() -> None:
    text = outlier_channels(2, 16, 6)
    quantizer = fitted(text, n_groups=4, of_text=True)
    expected = quantizer(text)
    assert torch.equal(quantizer(text[:, :5]), expected[:, :5])
    # Words that no calibration saw are quantized as the last one.
    longer = torch.cat([text, text[:, -1:], text[:, -1:]], dim=1)
    last = expected[:, -1:]
    assert torch.equal(quantizer(longer), torch.cat([expected, last, last], dim=1))


@pytest.mark.parametrize("n_bits", [4, 8])
def test_groups_of_channels_hold_for_tokens_as_for_pixels(n_bits: int) -> None:
    x = outlier_channels(2, 6, 3, 3)
    quantizer = fitted(x, n_bits=n_bits, n_groups=3)
    assert quantizer.axis == CHANNEL
    tokens = quantizer(x.flatten(2).transpose(1, 2))
    assert torch.equal(tokens, quantizer(x).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(("largest", "dtype"), [(255, torch.uint8), (256, torch.int32)])
def test_groups_are_numbered_in_a_byte_if_they_fit(largest: int, dtype: torch.dtype) -> None:
    index = torch.tensor([[0, 3, largest]])
    found = smallest_integers(index)
    assert found.dtype == dtype
    assert torch.equal(found.long(), index)


@pytest.mark.parametrize("n_bits", [4, 16])
def test_switched_off_or_16_bits_passes_the_very_tensor(n_bits: int) -> None:
    x = randn(1, 3, 2, 2)
    context = QuantizationContext([0], (2, 2))
    context.activations = n_bits == 16
    assert ActivationQuantizer(ActivationSettings(n_bits), context)(x) is x


def test_errors_say_what_is_missing() -> None:
    context = QuantizationContext([0, 1], (2, 2))
    quantizer = ActivationQuantizer(ActivationSettings(), context)
    x = randn(1, 3, 2, 2)
    with pytest.raises(DGQError, match="no scales"):
        quantizer(x)
    with pytest.raises(DGQError, match="mid_block was never observed"):
        quantizer.fit_("mid_block")
    context.activations, context.observing = False, True
    quantizer.start_observing_()
    quantizer(x)
    with pytest.raises(DGQError, match="mid_block has steps without calibration samples"):
        quantizer.fit_("mid_block")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    x = randn(1, 3, 2, 2)
    x[0, 1, 1, 1] = value
    with pytest.raises(DGQError, match="not finite"):
        fitted(x)
