"""Attention whose inputs, q, k, v and scores are quantized, in both lives of a UNet."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from dgq.calls import SamplerCalls
from dgq.errors import DGQError
from dgq.ops.reference import attention as differentiable_attention
from dgq.settings import FLOAT_BITS
from dgq.start_token import but_start

MAX_SCORES = 2**27
"""Attention scores held at once (half a gigabyte); larger batches are computed row by row."""

EQUIVALENT = (
    *("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor"),
    "QuantAttnProcessor",
)
"""Processors that stand for what quantized attention computes; stock ones differ in speed alone."""

IGNORED = ("scale", "temb")
"""Keyword arguments that stock processors take and do not use here (the scale of a LoRA)."""

NOT_COMPUTED = ("spatial_norm", "norm_cross", "norm_q", "norm_k", "added_kv_proj_dim")


class QuantAttnProcessor:
    """Stands where stock code looks for a processor: quantized attention computes all itself."""


class QuantizedAttention(Attention):
    """A diffusers attention that was given quantizers of its own by ``become_quantized_``.

    The tensor that to_q, to_k and to_v read is quantized once, as is the text context; q, k and v
    are quantized before they are split into heads. The quantizers belong to the attention: stock
    processors that compute the same leave it as it is, others are refused.
    """

    input_quantizer: nn.Module
    context_quantizer: nn.Module | None
    query_quantizer: nn.Module
    key_quantizer: nn.Module
    value_quantizer: nn.Module
    score_quantizer: nn.Module | None
    keep_start: bool
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
        _check_arguments(cross_attention_kwargs)
        given = hidden_states
        if given.ndim == 4:
            hidden_states = given.flatten(2).transpose(1, 2)
        if self.group_norm is not None:
            hidden_states = self.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        hidden = source = self.input_quantizer(hidden_states)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if self.context_quantizer is not None:
            source = self.context_quantizer(context)
        elif encoder_hidden_states is not None:
            source = self.input_quantizer(context)  # self-attention that is given further tokens
        query = self.query_quantizer(self.to_q(hidden))
        key, value = self._quantized_key(self.to_k(source)), self.value_quantizer(self.to_v(source))
        mixed = self._mix(query, key, value, attention_mask)
        out = self.to_out[1](self.to_out[0](mixed))
        if given.ndim == 4:
            out = out.transpose(1, 2).reshape(given.shape)
        if self.residual_connection:
            out = out + given
        return out / self.rescale_output_factor

    def _quantized_key(self, key: Tensor) -> Tensor:
        """Keys ``[batch, tokens, channels]``, quantized but for the ``<start>`` token's row."""
        return but_start(self.key_quantizer, key, 1) if self.keep_start else self.key_quantizer(key)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax attention on ``[batch, tokens, heads * head_dim]``."""
        needs_scores = self.score_quantizer is not None and self.score_quantizer.active
        if mask is None and not needs_scores:
            # Fused kernels never hold the scores, which at 64x64 latents take gigabytes.
            has_gradient = torch.is_grad_enabled() and any(
                x.requires_grad for x in (query, key, value)
            )
            attend = differentiable_attention if has_gradient else self.attend
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
        """The same with quantized scores, for as many samples at once as fit into memory.

        Ranges and maxima are those of a sample or fixed, so samples can be computed apart.
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
        logits = query @ key.transpose(-1, -2) * self.scale
        if mask is not None:
            logits = logits + mask
        return self.score_quantizer(logits.softmax(-1)) @ value

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

    # What pipelines do to processors

    @property
    def processor(self) -> object:
        """What stock code takes for the processor."""
        return QuantAttnProcessor()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "processor":
            self.set_processor(value)
        else:
            super().__setattr__(name, value)

    def get_processor(self, return_deprecated_lora: bool = False) -> object:
        """What ``set_processor`` takes back."""
        return self.processor

    def set_processor(self, processor: object) -> None:
        """Keep computing what an equivalent stock processor would.

        Raises:
            DGQError: for a processor that computes something else.
        """
        if type(processor).__name__ not in EQUIVALENT:
            raise DGQError(
                f"the processor {type(processor).__name__} computes attention in its own way, "
                "without the quantizers: use the pipeline in full precision for it"
            )

    def fuse_projections(self, fuse: bool = True) -> None:
        """Refuse: q, k and v have quantized weights of their own, which read one quantized tensor.

        Raises:
            DGQError: always.
        """
        raise DGQError(
            "fuse_qkv_projections: quantized projections cannot be fused, and need not be: their "
            "input is quantized once for all three"
        )


def become_quantized_(
    attention: Attention,
    calls: SamplerCalls,
    quantizers: Mapping[str, nn.Module | None],
    keep_start: bool,
) -> None:
    """Turn a stock attention into a quantized one; again, to exchange its quantizers.

    Args:
        attention: stock, or quantized already.
        calls: of the UNet.
        quantizers: ``input``, ``context`` (None in self-attention), ``query``, ``key``, ``value``
            and ``score`` (None where scores stay in floating point).
        keep_start: keep the key of the ``<start>`` token in full precision.
    """
    attention.__dict__.pop("processor", None)
    attention._modules.pop("processor", None)
    attention.__class__ = QuantizedAttention
    for name, quantizer in quantizers.items():
        attention.register_module(f"{name}_quantizer", quantizer)
    attention.calls, attention.keep_start = calls, keep_start
    attention.attend = differentiable_attention


def bits_of(quantizer: nn.Module | None) -> int:
    """Bits of what a quantizer puts out; FLOAT_BITS where nothing is quantized."""
    return int(getattr(quantizer, "n_bits", FLOAT_BITS))


def unsupported_feature(attention: Attention) -> str | None:
    """The first feature of an attention that the quantized one does not compute, if any."""
    return next((name for name in NOT_COMPUTED if getattr(attention, name, None)), None)


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise DGQError for an argument that would change what a stock attention computes."""
    for name, value in arguments.items():
        if value is not None and name not in IGNORED:
            raise DGQError(
                f"cross_attention_kwargs: quantized attention does not know {name!r}: leave it "
                "away, or use the pipeline in full precision"
            )
