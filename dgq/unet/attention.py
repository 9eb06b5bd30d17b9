"""Attention whose inputs, q, k, v and scores are quantized, in calibration and inference."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.ops.reference import attention as differentiable_attention
from dgq.settings import FLOAT_BITS
from dgq.unet.calls import SamplerCalls
from dgq.unet.derivatives import may_need_derivative
from dgq.unet.processors import TakesProcessors, check_arguments, run
from dgq.unet.projections import describe_projections_, projection_of
from dgq.unet.readers import read, read_all
from dgq.unet.start_token import KeptStart, quantized_tokens

MAX_SCORES = 2**27
"""Attention scores held at once (half a gigabyte); larger batches are computed row by row."""

NOT_COMPUTED = ("spatial_norm", "norm_cross", "norm_q", "norm_k", "added_kv_proj_dim")


class QuantizedAttention(TakesProcessors, Attention):
    """A diffusers attention with quantizers, which ``become_quantized_`` has added.

    The tensor that to_q, to_k and to_v read is quantized once, as is the text context; q, k and v
    are quantized before they are split into heads. The quantizers belong to the attention: stock
    processors that compute the same change nothing. Other processors compute on quantized
    projections; they are refused if scores are quantized, because they would skip that.
    """

    input_quantizer: nn.Module
    context_quantizer: nn.Module | None
    query_quantizer: nn.Module
    key_quantizer: nn.Module
    value_quantizer: nn.Module
    score_quantizer: nn.Module | None
    keep_start: bool
    keep_start_text: bool
    calls: SamplerCalls
    attend: Callable[[Tensor, Tensor, Tensor, int, float], Tensor]

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **cross_attention_kwargs: Any,
    ) -> Tensor:
        """``hidden_states [batch, tokens, channels]`` or an image, the same shape back."""
        states = (hidden_states, encoder_hidden_states, attention_mask)
        if self.own_processor is not None:
            step = self.calls.step
            of_one = step.shape[0] > 1 and bool((step == step[0]).all())
            # Samples of one step may be computed separately.
            with self.calls.narrowed(slice(0, 1 if of_one else None)):
                return run(self.own_processor, self, *states, cross_attention_kwargs)
        check_arguments(cross_attention_kwargs, of_text=self.context_quantizer is not None)
        given = hidden_states
        if given.ndim == 4:
            hidden_states = given.flatten(2).transpose(1, 2)
        if self.group_norm is not None:
            hidden_states = self.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        query, key, value = self._projected(hidden_states, encoder_hidden_states)
        key = quantized_tokens(self.key_quantizer, key, self.keep_start)
        query, value = self.query_quantizer(query), self.value_quantizer(value)
        mixed = self._mix(query, key, value, attention_mask)
        out = self.to_out[1](self.to_out[0](mixed))
        if given.ndim == 4:
            out = out.transpose(1, 2).reshape(given.shape)
        if self.residual_connection:
            out = out + given
        if self.rescale_output_factor != 1:
            out = out / self.rescale_output_factor
        rescaled: Tensor = out
        return rescaled

    def _projected(self, hidden: Tensor, given: Tensor | None) -> Sequence[Tensor]:
        """q, k and v ``[batch, tokens, channels]`` of quantized inputs, not quantized themselves.

        Args:
            hidden: tensor that queries are computed from.
            given: text, or the tokens of self-attention with additional ones; None for ``hidden``.
        """
        quantized = self.input_quantizer(hidden)
        context = hidden if given is None else given
        if self.context_quantizer is None and given is None:
            return read_all((self.to_q, self.to_k, self.to_v), hidden, quantized)
        if self.context_quantizer is not None:
            source = quantized_tokens(self.context_quantizer, context, self.keep_start_text)
        else:
            source = self.input_quantizer(context)
        query = read(self.to_q, hidden, quantized)
        return query, *read_all((self.to_k, self.to_v), context, source)

    def project(self, name: str, x: Tensor) -> Tensor:
        """``to_q``, ``to_k`` or ``to_v`` of a tensor that has not been quantized.

        Raises:
            DGQError: if samples of different steps are computed separately.
        """
        if self.calls.step.shape[0] not in (1, x.shape[0]):
            raise DGQError(
                f"the attention processor {type(self.own_processor).__name__} computes samples "
                "of different steps separately: call the UNet with one timestep for all of them"
            )
        around = projection_of(self, name)
        return around.quantized_output(read(getattr(self, name), x, around.quantized(x)))

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax attention on ``[batch, tokens, heads * head_dim]``."""
        needs_scores = self.score_quantizer is not None and self.score_quantizer.active
        if mask is None and not needs_scores:
            # Fused kernels never hold the scores, which at 64x64 latents take gigabytes.
            differentiable = may_need_derivative(query, key, value)
            attend = differentiable_attention if differentiable else self.attend
            return attend(query, key, value, self.heads, self.scale)
        if mask is not None:
            mask = self.prepare_attention_mask(mask, key.shape[1], query.shape[0])
            mask = mask.unflatten(0, (-1, self.heads))
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        if needs_scores:
            mixed = self._mix_by_scores(q, k, v, mask)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return mixed.transpose(1, 2).flatten(2)

    def _mix_by_scores(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """``_mix`` with quantized scores, for as many samples at once as fit into memory.

        Ranges and maxima are fixed or per sample, so samples can be computed separately.
        """
        batch, heads, n_queries, _ = query.shape
        rows = max(1, MAX_SCORES // (heads * n_queries * key.shape[2]))
        if rows >= batch:
            return self._mix_rows(query, key, value, mask)
        parts = []
        for start in range(0, batch, rows):
            part = slice(start, start + rows)
            part_mask = None if mask is None else mask[part]
            with self.calls.narrowed(part):
                parts.append(self._mix_rows(query[part], key[part], value[part], part_mask))
        return torch.cat(parts)

    def _mix_rows(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of samples whose scores fit into memory."""
        assert self.score_quantizer is not None
        scores: Tensor = self.score_quantizer(
            scaled_logits(query, key, mask, self.scale).softmax(-1)
        )
        return scores @ value

    # Bits of the operands, for counting

    @property
    def query_bits(self) -> int:
        """Bits of q, FLOAT_BITS in floating point."""
        return bits_of(self.query_quantizer)

    @property
    def key_bits(self) -> int:
        """Bits of k, FLOAT_BITS in floating point."""
        return bits_of(self.key_quantizer)

    @property
    def value_bits(self) -> int:
        """Bits of v, FLOAT_BITS in floating point."""
        return bits_of(self.value_quantizer)

    @property
    def score_bits(self) -> int:
        """Bits of the scores, FLOAT_BITS in floating point."""
        return bits_of(self.score_quantizer)


def scaled_logits(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """``scale * query @ key^T + mask``, never held unscaled: float16 would overflow.

    Args:
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, heads, keys, head_dim]``.
        mask: broadcast to ``[batch, heads, queries, keys]``; None to add nothing.
        scale: factor of the products.
    """
    samples, beta = query.shape[:2], 0
    added = query.new_zeros(())
    if mask is not None:
        added, beta = mask.expand(*samples, -1, -1).flatten(0, 1).to(query.dtype), 1
    keys = key.flatten(0, 1).transpose(1, 2)
    logits = torch.baddbmm(added, query.flatten(0, 1), keys, beta=beta, alpha=scale)
    of_heads: Tensor = logits.unflatten(0, samples)
    return of_heads


# Code that exchanges the forward of attentions finds them by the name of their class.
QuantizedAttention.__name__ = Attention.__name__


def become_quantized_(
    attention: Attention,
    calls: SamplerCalls,
    quantizers: Mapping[str, nn.Module | None],
    kept: KeptStart,
) -> None:
    """Turn a stock attention into a quantized one, or exchange the quantizers of a quantized one.

    Args:
        attention: a stock or quantized attention.
        calls: calls of the UNet.
        quantizers: ``input``, ``context`` (None in self-attention), ``query``, ``key``, ``value``
            and ``score`` (None where scores stay in floating point).
        kept: where the ``<start>`` token stays in full precision.
    """
    if not isinstance(attention, QuantizedAttention):
        attention.__dict__.pop("processor", None)
        attention._modules.pop("processor", None)
        attention.__class__ = QuantizedAttention
        attention.own_processor = None
    for name, quantizer in quantizers.items():
        attention.register_module(f"{name}_quantizer", quantizer)
    attention.calls, attention.attend = calls, differentiable_attention
    attention.keep_start, attention.keep_start_text = kept
    describe_projections_(attention)


def bits_of(quantizer: nn.Module | None) -> int:
    """Bits of a quantizer's output; FLOAT_BITS if nothing is quantized."""
    return int(getattr(quantizer, "n_bits", FLOAT_BITS))


def unsupported_feature(attention: Attention) -> str | None:
    """The first feature of an attention that quantized attention does not support, if any."""
    return next((name for name in NOT_COMPUTED if getattr(attention, name, None)), None)
