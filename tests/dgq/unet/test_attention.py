"""Quantized attention against the stock one, and against attention written with loops."""

import math

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from dgq.quantizers.activation_quantizer import ActivationQuantizer
from dgq.quantizers.scores import AffineScoreQuantizer, LogScoreQuantizer, score_quantizer
from dgq.settings import ActivationSettings, QuantizationSettings, ScoreSettings
from dgq.unet.attention import (
    QuantizedAttention,
    become_quantized_,
    scaled_logits,
    unsupported_feature,
)
from dgq.unet.calls import SamplerCall
from dgq.unet.context import QuantizationContext
from dgq.unet.quantize import attention_quantizers
from dgq.unet.start_token import kept_start

HEADS, HEAD_DIM = 2, 5


def attention(cross: bool) -> Attention:
    torch.manual_seed(0)
    return Attention(8, cross_attention_dim=6 if cross else None, heads=HEADS, dim_head=HEAD_DIM)


def inputs(cross: bool) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(3, 7, 6, generator=generator) * 4
    return torch.randn(3, 9, 8, generator=generator) * 4, text if cross else None


def equip_(attn: Attention, settings: QuantizationSettings) -> QuantizationContext:
    context, cross = QuantizationContext([0], (3, 3)), attn.is_cross_attention
    quantizers = attention_quantizers(settings, "attn", cross, context)
    become_quantized_(attn, context, quantizers, kept_start(settings, "attn", cross))
    assert isinstance(attn, QuantizedAttention)
    return context


def calibrate_(attn: Attention, context: QuantizationContext, cross: bool) -> None:
    quantizers = [m for m in attn.modules() if isinstance(m, ActivationQuantizer)]
    for quantizer in quantizers:
        quantizer.start_observing_()
    context.observing, context.activations = True, False
    attn(*inputs(cross))
    for quantizer in quantizers:
        quantizer.fit_()
    context.observing, context.activations = False, True


def probabilities(attn: Attention, cross: bool) -> tuple[Tensor, Tensor]:
    """Scores ``[batch, heads, queries, keys]`` and values, written with einsum in double."""
    hidden, text = inputs(cross)
    source = hidden if text is None else text

    def heads(x: Tensor) -> Tensor:
        return x.double().reshape(*x.shape[:2], HEADS, HEAD_DIM)

    q, k, v = heads(attn.to_q(hidden)), heads(attn.to_k(source)), heads(attn.to_v(source))
    return (torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(HEAD_DIM)).softmax(-1), v


def mixed(attn: Attention, scores: Tensor, values: Tensor) -> Tensor:
    """What an attention makes of scores and values."""
    out = torch.einsum("bhqk,bkhd->bqhd", scores, values).flatten(2).float()
    return attn.to_out[0](out)


def log_by_hand(scores: Tensor, n_bits: int) -> Tensor:
    """Scores quantized one number at a time, each sample under its own maximum."""
    out = scores.clone()
    for sample in out:
        d = sample.max().item()
        flat = sample.view(-1)
        for i, p in enumerate(flat.tolist()):
            flat[i] = d * 2.0 ** -min(max(round(-math.log2(p / d)), 0), 2**n_bits - 1)
    return out


FLOAT_ACTIVATIONS = ActivationSettings(16)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("n_bits", [4, 16])
@torch.no_grad()
def test_switched_off_equals_stock(cross: bool, n_bits: int) -> None:
    attn = attention(cross)
    expected = attn(*inputs(cross))
    settings = QuantizationSettings(
        activations=ActivationSettings(n_bits), scores=ScoreSettings(n_bits)
    )
    equip_(attn, settings).activations = False
    torch.testing.assert_close(attn(*inputs(cross)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cross", [False, True])
@torch.no_grad()
def test_observing_changes_nothing(cross: bool) -> None:
    attn = attention(cross)
    expected = attn(*inputs(cross))
    context = equip_(attn, QuantizationSettings())
    context.activations, context.observing = False, True
    torch.testing.assert_close(attn(*inputs(cross)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scores", [8, 16])
@torch.no_grad()
def test_a_mask_is_respected(scores: int) -> None:
    attn, (hidden, text) = attention(True), inputs(True)
    mask = torch.zeros(3, 1, 7)
    mask[..., 4:] = -10000.0
    expected = attn(hidden, text, attention_mask=mask)
    assert not torch.allclose(expected, attn(hidden, text), atol=1e-3)
    settings = QuantizationSettings(scores=ScoreSettings(scores))
    context = equip_(attn, settings)
    context.activations, context.observing = False, scores == 8
    torch.testing.assert_close(attn(hidden, text, attention_mask=mask), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_bits", [2, 3, 8])
@torch.no_grad()
def test_log_scores_of_cross_attention_equal_loops_and_keep_the_start_token(n_bits: int) -> None:
    attn = attention(True)
    scores, values = probabilities(attn, True)
    quantized = torch.cat([scores[..., :1], log_by_hand(scores[..., 1:], n_bits)], -1)
    equip_(attn, QuantizationSettings(activations=FLOAT_ACTIVATIONS, scores=ScoreSettings(n_bits)))
    torch.testing.assert_close(
        attn(*inputs(True)), mixed(attn, quantized, values), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_log_scores_of_self_attention_have_no_start_token() -> None:
    attn = attention(False)
    scores, values = probabilities(attn, False)
    settings = ScoreSettings(3, self_attention="log")
    equip_(attn, QuantizationSettings(activations=FLOAT_ACTIVATIONS, scores=settings))
    expected = mixed(attn, log_by_hand(scores, 3), values)
    torch.testing.assert_close(attn(*inputs(False)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_log_scores_may_be_taken_of_the_largest_score_of_the_calibration() -> None:
    attn = attention(False)
    scores, values = probabilities(attn, False)
    settings = ScoreSettings(3, self_attention="log", maximum="calibrated")
    context = equip_(attn, QuantizationSettings(activations=FLOAT_ACTIVATIONS, scores=settings))
    calibrate_(attn, context, False)
    exponents = (-(scores / scores.max()).log2()).round().clamp(0, 7)
    expected = mixed(attn, scores.max() * 2**-exponents, values)
    torch.testing.assert_close(attn(*inputs(False)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cross", [False, True])
@torch.no_grad()
def test_affine_scores_equal_the_formula_over_the_calibrated_range(cross: bool) -> None:
    attn = attention(cross)
    scores, values = probabilities(attn, cross)
    settings = ScoreSettings(8, cross_attention="affine", keep_start_token=cross)
    context = equip_(attn, QuantizationSettings(activations=FLOAT_ACTIVATIONS, scores=settings))
    calibrate_(attn, context, cross)
    rest = scores[..., 1:] if cross else scores
    low, high = rest.min(), rest.max()
    step = (high - low) / 255
    quantized = (rest / step).round() * step
    quantized = torch.cat([scores[..., :1], quantized], -1) if cross else quantized
    found = attn(*inputs(cross))
    # A score at the boundary of two codes may fall to either side in float32: one step of slack.
    slack = float(step) * float(values.abs().max()) * 2
    torch.testing.assert_close(found, mixed(attn, quantized, values), rtol=0, atol=slack)
    assert not torch.allclose(found, mixed(attn, scores, values), atol=1e-7)


@pytest.mark.parametrize("cross", [False, True])
@torch.no_grad()
def test_inputs_and_q_k_v_are_quantized_each_by_its_own_quantizer(cross: bool) -> None:
    attn = attention(cross)
    settings = QuantizationSettings(
        activations=ActivationSettings(4, n_groups=2), scores=ScoreSettings(16)
    )
    context = equip_(attn, settings)
    calibrate_(attn, context, cross)
    hidden, text = inputs(cross)
    hidden = attn.input_quantizer(hidden)
    source = hidden if text is None else attn.context_quantizer(text)

    def heads(x: Tensor) -> Tensor:
        return x.double().reshape(*x.shape[:2], HEADS, HEAD_DIM)

    q = heads(attn.query_quantizer(attn.to_q(hidden)))
    key = attn.to_k(source)
    # The <start> token's key, row 0, stays in full precision.
    kept = 1 if cross else 0
    k = heads(torch.cat([key[:, :kept], attn.key_quantizer(key[:, kept:])], dim=1))
    v = heads(attn.value_quantizer(attn.to_v(source)))
    scores = (torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(HEAD_DIM)).softmax(-1)
    torch.testing.assert_close(attn(*inputs(cross)), mixed(attn, scores, v), rtol=1e-4, atol=1e-4)
    inside = attn.query_quantizer, attn.key_quantizer, attn.value_quantizer
    assert all(quantizer.scale.numel() for quantizer in inside)


@pytest.mark.parametrize("rows", [1, 2])
def test_logits_are_scaled_before_they_overflow(rows: int) -> None:
    query, key = torch.full((2, 1, 3, 64), 40.0).half(), torch.full((2, 1, 5, 64), 40.0).half()
    mask = torch.randn(rows, 1, 1, 5, generator=torch.Generator().manual_seed(0)).half()
    logits = scaled_logits(query, key, mask, 0.125)
    expected = (0.125 * torch.einsum("bhqd,bhkd->bhqk", query.double(), key.double()) + mask).half()
    torch.testing.assert_close(logits, expected)
    assert torch.isinf(query @ key.transpose(-1, -2)).all()  # 102,400


@pytest.mark.parametrize("cross", [False, True])
@torch.no_grad()
def test_scores_computed_row_by_row_are_the_same(
    cross: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    attn = attention(cross)
    context = equip_(attn, QuantizationSettings(activations=ActivationSettings(6, n_groups=2)))
    calibrate_(attn, context, cross)
    context.current = SamplerCall(torch.tensor([0, 0, 0]), (3, 3))
    together = attn(*inputs(cross))
    monkeypatch.setattr("dgq.unet.attention.MAX_SCORES", 1)
    # Another batch size is another order of summation: a score may cross to the next code.
    torch.testing.assert_close(attn(*inputs(cross)), together, rtol=0, atol=0.05)
    assert context.step.shape == (3,)


@pytest.mark.parametrize(
    ("method", "n_bits", "expected"),
    [("log", 8, LogScoreQuantizer), ("affine", 8, AffineScoreQuantizer), ("log", 16, type(None))],
)
@pytest.mark.parametrize("cross", [False, True])
def test_the_score_quantizer_follows_the_settings_of_its_kind_of_attention(
    method: str, n_bits: int, expected: type, cross: bool
) -> None:
    other = {"log": "affine", "affine": "log"}[method]
    methods = (method, other) if cross else (other, method)
    settings = QuantizationSettings(scores=ScoreSettings(n_bits, *methods))  # type: ignore[arg-type]
    found = score_quantizer(settings, cross, QuantizationContext([0], (3, 3)))
    assert type(found) is expected


def test_bits_are_told_for_counting() -> None:
    settings = QuantizationSettings(activations=ActivationSettings(6), scores=ScoreSettings(16))
    attn = attention(False)
    equip_(attn, settings)
    bits = (attn.query_bits, attn.key_bits, attn.value_bits, attn.score_bits)
    assert bits == (6, 6, 6, 32)


def test_attentions_that_it_does_not_compute_are_recognised() -> None:
    assert unsupported_feature(attention(True)) is None
    assert unsupported_feature(Attention(8, norm_num_groups=2, residual_connection=True)) is None
    assert unsupported_feature(Attention(8, added_kv_proj_dim=3)) == "added_kv_proj_dim"
    assert unsupported_feature(Attention(8, qk_norm="layer_norm")) == "norm_q"


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("as_image", [True, False])
@torch.no_grad()
def test_norm_and_residual_are_those_of_the_stock_attention(
    residual: bool, groups: int | None, as_image: bool
) -> None:
    """As in the blocks of images alone, which give attention an image and the time embedding."""
    torch.manual_seed(0)
    attn = Attention(
        8,
        heads=HEADS,
        dim_head=HEAD_DIM,
        norm_num_groups=groups,
        residual_connection=residual,
        rescale_output_factor=1.4,
    )
    hidden, _ = inputs(False)
    if as_image:
        hidden = hidden.transpose(1, 2).reshape(3, 8, 3, 3)
    temb = torch.randn(3, 4)
    expected = attn(hidden, temb=temb)
    context = equip_(attn, QuantizationSettings())
    context.activations = context.weights = False
    torch.testing.assert_close(attn(hidden, temb=temb), expected, rtol=0, atol=1e-6)
