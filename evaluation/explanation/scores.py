"""Scores of a cross-attention before and after quantization."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from dgq.unet.attention import QuantizedAttention
from dgq.unet.start_token import quantized_tokens


@dataclass(frozen=True)
class Scores:
    """Scores of one attention for one prompt, the mean over its heads.

    Args:
        name: name of the attention.
        before: scores in full precision, ``[queries, keys]``.
        after: scores as the quantized model computes them.
    """

    name: str
    before: Tensor
    after: Tensor

    @property
    def start_mass(self) -> tuple[float, float]:
        """The start token's share of all scores, before and after."""
        return float(self.before[:, 0].mean()), float(self.after[:, 0].mean())

    def to_dict(self) -> dict[str, object]:
        """The numbers of the picture, in short."""
        return {
            "name": self.name,
            "start_mass_before": self.start_mass[0],
            "start_mass_after": self.start_mass[1],
            "mass_by_token_before": self.before.mean(0).tolist(),
            "mass_by_token_after": self.after.mean(0).tolist(),
        }


def cross_attentions(unet: nn.Module) -> dict[str, Attention]:
    """Attentions that read the text, by name."""
    found = {n: m for n, m in unet.named_modules() if isinstance(m, Attention)}
    return {name: module for name, module in found.items() if module.is_cross_attention}


@torch.no_grad()
def compared_scores(
    stock: nn.Module, quantized: nn.Module, call: Mapping[str, Any], name: str
) -> Scores:
    """Scores of one cross-attention in both UNets, for the last row of a call.

    With guidance the last row is the one with the prompt.

    Args:
        stock: the full-precision UNet.
        quantized: the quantized UNet, loaded for floating point.
        call: keyword arguments of the UNets.
        name: name of the attention.
    """
    found = []
    for unet in (stock, quantized):
        with recording_scores(unet.get_submodule(name)) as scores:
            unet(**call)
        found.append(scores[0][-1].float().mean(0).cpu())
    return Scores(name, *found)


@contextmanager
def recording_scores(attention: Any) -> Iterator[list[Tensor]]:
    """Record the scores ``[batch, heads, queries, keys]`` of each call of an attention."""
    projected: dict[str, Tensor] = {}
    scores: list[Tensor] = []

    def keep(name: str) -> Any:
        return lambda _module, _args, output: projected.__setitem__(name, output)

    def compute(attention: Any, *_: Any) -> None:
        scores.append(scores_of(attention, projected["to_q"], projected["to_k"]))

    hooks = [getattr(attention, n).register_forward_hook(keep(n)) for n in ("to_q", "to_k")]
    hooks.append(attention.register_forward_hook(compute))
    try:
        yield scores
    finally:
        for hook in hooks:
            hook.remove()


def scores_of(attention: Any, query: Tensor, key: Tensor) -> Tensor:
    """Softmax of q.k, quantized as the attention does it while its UNet is called.

    Args:
        attention: a stock or quantized attention.
        query: output of ``to_q``.
        key: output of ``to_k``.
    """
    own = isinstance(attention, QuantizedAttention)
    if own:
        query = attention.query_quantizer(query)
        key = quantized_tokens(attention.key_quantizer, key, attention.keep_start)
    q, k = (x.reshape(*x.shape[:-1], attention.heads, -1).transpose(1, 2) for x in (query, key))
    scores: Tensor = (q @ k.transpose(-1, -2) * attention.scale).softmax(-1)
    if own and attention.score_quantizer is not None:
        scores = attention.score_quantizer(scores)
    return scores


def telling(stock: nn.Module, call: Mapping[str, Any]) -> str:
    """The cross-attention whose start token's share is closest to half, so that all tokens show."""
    mass = {}
    for name, module in cross_attentions(stock).items():
        with recording_scores(module) as scores, torch.no_grad():
            stock(**call)
        mass[name] = float(scores[0][-1, ..., 0].mean())
    return min(mass, key=lambda name: abs(mass[name] - 0.5))
