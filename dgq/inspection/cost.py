"""What a UNet costs: bit operations of one call, bytes of its weights in full precision.

A bit operation (BOP) is a multiply-accumulate (MAC) weighted with the bits of both operands:
``BOPs = MACs x bits of one operand x bits of the other``, and floating point counts as 32 bits.
Linear and convolution layers multiply weights with activations; an attention multiplies queries
with keys and scores with values. Normalisations, activation functions, biases and softmax are not
counted, as usual.

The 694 TBOPs that papers give for SD 1.4 at 512 x 512 are the layers alone, for one sampler step
with guidance: 2 x 338.6 GMACs x 32 x 32. The products inside attention add 2 x 63.0 GMACs, so both
parts are counted separately here.

Modules tell their precision by duck typing: ``weight_bits`` and ``activation_bits`` on an
``nn.Linear`` or ``nn.Conv2d``, or on a layer of ``dgq.inference``; ``query_bits``, ``key_bits``,
``value_bits`` and ``score_bits`` on an attention, and ``keep_start`` where the first key and its
scores stay in floating point. What has no such property, kept layers above all, runs in floating
point.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from dgq.inference.kernel_layer import KernelLayer
from dgq.inference.layers import FrozenLayer
from dgq.settings import FLOAT_BITS

LAYERS = (nn.Linear, nn.Conv2d, FrozenLayer, KernelLayer)
"""Linear and convolution layers in all their forms."""


@dataclass
class Operations:
    """Multiply-accumulates of a call, and the same weighted with the bits of both operands.

    Args:
        layer_macs: multiply-accumulates of linear and convolution layers.
        layer_bops: their bit operations.
        attention_macs: multiply-accumulates of q.k and scores.v.
        attention_bops: their bit operations.
    """

    layer_macs: int = 0
    layer_bops: int = 0
    attention_macs: int = 0
    attention_bops: int = 0

    @property
    def macs(self) -> int:
        """All multiply-accumulates."""
        return self.layer_macs + self.attention_macs

    @property
    def bops(self) -> int:
        """All bit operations."""
        return self.layer_bops + self.attention_bops


@torch.no_grad()
def count_operations(unet: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Operations:
    """Operations of the call ``unet(*args, **kwargs)``, which is made once.

    With classifier-free guidance the batch of a recorded call is doubled already, so that the
    count is that of a whole sampler step. Works on the ``meta`` device, without any weights.
    """
    total = Operations()
    with _counting(unet, total):
        unet(*args, **kwargs)
    return total


def parameter_bytes(unet: nn.Module) -> int:
    """Bytes of all parameters in fp32, 4 for each."""
    return sum(parameter.numel() for parameter in unet.parameters()) * FLOAT_BITS // 8


@contextmanager
def _counting(model: nn.Module, total: Operations) -> Iterator[None]:
    """Hooks that add each multiplication of ``model`` to ``total``; removed on leaving."""
    handles = []
    for module in model.modules():
        if isinstance(module, LAYERS):
            handles.append(module.register_forward_hook(_layer_hook(total)))
        elif isinstance(module, Attention):
            hook = _attention_hook(total)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layer_hook(total: Operations) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    def count(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        macs = output.numel() * fan_in(layer)
        total.layer_macs += macs
        total.layer_bops += macs * bits_of(layer, "weight_bits") * bits_of(layer, "activation_bits")

    return count


def _attention_hook(total: Operations) -> Callable[..., None]:
    def count(attention: Attention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        context = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
        queries = _n_tokens(hidden)
        keys = queries if context is None else _n_tokens(context)
        # Over all heads q.k and scores.v have the same shape: [queries, keys] x width.
        macs_per_key = hidden.shape[0] * queries * attention.inner_dim
        kept = _kept_keys(attention, keys)
        products = (keys - kept) * _products(attention)
        products += kept * _products(attention, kept=True)
        total.attention_macs += 2 * macs_per_key * keys
        total.attention_bops += macs_per_key * products

    return count


def _kept_keys(attention: Attention, keys: int) -> int:
    """Keys that stay in floating point: the start token's, unless it is the only one."""
    return int(getattr(attention, "keep_start", False) and keys > 1)


def _products(attention: Attention, kept: bool = False) -> int:
    """Bits times bits of q.k plus those of score.v, for one key, or for one that is kept."""
    key, score = (FLOAT_BITS if kept else bits_of(attention, n) for n in ("key_bits", "score_bits"))
    return bits_of(attention, "query_bits") * key + score * bits_of(attention, "value_bits")


def fan_in(layer: nn.Module) -> int:
    """Multiply-accumulates for one element of the layer's output."""
    if isinstance(layer, FrozenLayer | KernelLayer):
        return layer.fan_in
    if isinstance(layer, nn.Conv2d):
        height, width = layer.kernel_size
        return layer.in_channels // layer.groups * height * width
    assert isinstance(layer, nn.Linear)
    return layer.in_features


def _n_tokens(hidden: Tensor) -> int:
    """Tokens of [batch, tokens, channels] or pixels of [batch, channels, height, width]."""
    return hidden.shape[1] if hidden.ndim == 3 else hidden.shape[2] * hidden.shape[3]


def bits_of(owner: object, name: str) -> int:
    """The bits that a layer or an attention names; FLOAT_BITS where it names none."""
    return int(getattr(owner, name, FLOAT_BITS))
