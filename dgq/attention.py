"""Attention with quantized inputs, q, k, v and scores, as a diffusers attention processor."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from dgq.activation_quantizer import ActivationQuantizer
from dgq.activations import activation_quantizer
from dgq.context import QuantizationContext
from dgq.log_scores import log_quantize_but_start, log_quantize_live
from dgq.settings import (
    FLOAT_BITS,
    ActivationSettings,
    QuantizationSettings,
    ScoreSettings,
    operand_bits,
)

MAX_SCORES = 2**27
"""Attention scores held at once (half a gigabyte); larger batches are computed row by row."""


class LogScoreQuantizer(nn.Module):
    """Logarithmic quantization of scores under each sample's live maximum; holds no state.

    Args:
        n_bits: bits of the exponent.
        keep_start: pass the first key, the ``<start>`` token, in full precision.
        context: mode of the UNet.
    """

    def __init__(self, n_bits: int, keep_start: bool, context: QuantizationContext) -> None:
        super().__init__()
        self.n_bits = n_bits
        self.keep_start = keep_start
        self.context = context

    def forward(self, scores: Tensor) -> Tensor:
        """``[batch, heads, queries, keys]``, softmaxed."""
        if not self.context.activations:
            return scores
        quantize = log_quantize_but_start if self.keep_start else log_quantize_live
        return quantize(scores, self.n_bits)


class AffineScoreQuantizer(ActivationQuantizer):
    """Affine quantization of scores, one range for the whole tensor.

    Args:
        settings: bits of the scores.
        per_step: one range for each sampler step.
        keep_start: pass the first key, the ``<start>`` token, in full precision.
        context: mode and step of the UNet.
    """

    def __init__(
        self,
        settings: ScoreSettings,
        per_step: bool,
        keep_start: bool,
        context: QuantizationContext,
    ) -> None:
        super().__init__(
            ActivationSettings(settings.n_bits, n_groups=1, per_step=per_step),
            context,
            per_tensor=True,
        )
        self.keep_start = keep_start

    def forward(self, scores: Tensor) -> Tensor:
        """``[batch, heads, queries, keys]``, softmaxed."""
        if not self.keep_start or scores.shape[-1] == 1:
            return super().forward(scores)
        rest = super().forward(scores[..., 1:])
        return torch.cat([scores[..., :1], rest], dim=-1)


def score_quantizer(
    settings: QuantizationSettings, is_cross: bool, context: QuantizationContext
) -> nn.Module | None:
    """The quantizer of one attention's scores; ``None`` where they stay in full precision."""
    scores = settings.scores
    if operand_bits(scores.n_bits) == FLOAT_BITS:
        return None
    keep_start = is_cross and scores.keep_start_token
    method = scores.cross_attention if is_cross else scores.self_attention
    if method == "log":
        return LogScoreQuantizer(scores.n_bits, keep_start, context)
    return AffineScoreQuantizer(scores, settings.activations.per_step, keep_start, context)


class QuantAttnProcessor(nn.Module):
    """Attention of a diffusers transformer block, with its quantizers.

    The tensor that to_q, to_k and to_v read is quantized once, as is the text context; q, k and v
    are quantized before they are split into heads. With everything off it equals the stock
    processor.

    Args:
        settings: what is quantized.
        is_cross: cross-attention to a text context, rather than self-attention.
        context: mode and step of the UNet.
    """

    def __init__(
        self, settings: QuantizationSettings, is_cross: bool, context: QuantizationContext
    ) -> None:
        super().__init__()
        self.context = context
        activations = settings.activations
        self.hidden = activation_quantizer(activations, context)
        self.text = activation_quantizer(activations, context, of_text=True) if is_cross else None
        inside = activations if activations.qkv else replace(activations, n_bits=16)
        self.query = activation_quantizer(inside, context)
        self.key = activation_quantizer(inside, context, of_text=is_cross)
        self.value = activation_quantizer(inside, context, of_text=is_cross)
        self.keep_start = is_cross and settings.scores.keep_start_token
        self.scores = score_quantizer(settings, is_cross, context)
        self.score_bits = operand_bits(settings.scores.n_bits)

    @property
    def query_bits(self) -> int:
        """Bits of q, or FLOAT_BITS."""
        return self.query.n_bits

    @property
    def key_bits(self) -> int:
        """Bits of k, or FLOAT_BITS."""
        return self.key.n_bits

    @property
    def value_bits(self) -> int:
        """Bits of v, or FLOAT_BITS."""
        return self.value.n_bits

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """``hidden_states [batch, tokens, channels]``, the same shape back."""
        hidden = self.hidden(hidden_states)
        source = hidden
        if self.text is not None and encoder_hidden_states is not None:
            source = self.text(encoder_hidden_states)
        query = self.query(attn.to_q(hidden))
        key, value = self._quantized_key(attn.to_k(source)), self.value(attn.to_v(source))
        mixed = self._attend(attn, query, key, value, attention_mask)
        return attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor

    def _quantized_key(self, key: Tensor) -> Tensor:
        """Keys ``[batch, tokens, channels]``, quantized but for the ``<start>`` token's row."""
        if not self.keep_start or key.shape[1] == 1:
            return self.key(key)
        return torch.cat([key[:, :1], self.key(key[:, 1:])], dim=1)

    def _attend(
        self, attn: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        if mask is not None:
            mask = attn.prepare_attention_mask(mask, key.shape[1], query.shape[0])
            mask = mask.unflatten(0, (-1, attn.heads))
        query, key, value = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value)
        )
        mixed = self._mix(query, key, value, mask, attn.scale)
        return mixed.transpose(1, 2).flatten(2)

    def _mix(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        """Softmax attention on ``[batch, heads, tokens, head_dim]`` with quantized scores.

        Ranges and maxima are those of a sample or fixed, so rows can be computed apart.
        """
        if not self._needs_scores:
            # The fused kernel never holds the scores, which at 64x64 latents take gigabytes.
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        batch, heads, n_queries, _ = query.shape
        rows = max(1, MAX_SCORES // (heads * n_queries * key.shape[2]))
        parts = []
        for start in range(0, batch, rows):
            part = slice(start, start + rows)
            part_mask = None if mask is None else mask[part]
            with self.context.narrowed(part):
                parts.append(self._mix_rows(query[part], key[part], value[part], part_mask, scale))
        return torch.cat(parts)

    @property
    def _needs_scores(self) -> bool:
        """Whether the scores are quantized or observed now."""
        observed = self.context.observing and isinstance(self.scores, AffineScoreQuantizer)
        return self.scores is not None and (self.context.activations or observed)

    def _mix_rows(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        """Attention of as many rows as their scores fit into memory."""
        assert self.scores is not None
        logits = query @ key.transpose(-1, -2) * scale
        if mask is not None:
            logits = logits + mask
        return self.scores(logits.softmax(-1)) @ value


def unsupported_feature(attn: Attention) -> str | None:
    """The first feature of an attention that the processor does not compute, if any."""
    for name in (
        "spatial_norm",
        "group_norm",
        "norm_cross",
        "norm_q",
        "norm_k",
        "added_kv_proj_dim",
    ):
        if getattr(attn, name, None):
            return name
    return "residual_connection" if attn.residual_connection else None
