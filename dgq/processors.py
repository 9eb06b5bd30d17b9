"""Attention processors that pipelines bring along, on quantized attentions."""

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

EQUIVALENT = (
    *("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor"),
    *("FusedAttnProcessor2_0", "QuantAttnProcessor"),
)
"""Processors that stand for what quantized attention computes; stock ones differ in speed alone."""


class Processor(Protocol):
    """What computes an attention, from its projections."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``[batch, tokens, channels]``, the same shape back."""
        ...


class QuantAttnProcessor:
    """Stands where stock code looks for a processor: quantized attention computes all itself."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Let the attention compute."""
        return attn(hidden_states, *args, **kwargs)


class Projecting(Protocol):
    """A quantized attention."""

    def project(self, name: str, x: Tensor) -> Tensor:
        """``to_q``, ``to_k`` or ``to_v`` of a tensor that is not quantized yet."""
        ...


class Projections:
    """What a processor sees of a quantized attention: all of it; projections quantize their input.

    Args:
        attention: quantized.
    """

    def __init__(self, attention: Projecting) -> None:
        self._attention = attention

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attention, name)

    def to_q(self, x: Tensor) -> Tensor:
        """Queries of a tensor ``[batch, tokens, channels]``."""
        return self._attention.project("to_q", x)

    def to_k(self, x: Tensor) -> Tensor:
        """Keys."""
        return self._attention.project("to_k", x)

    def to_v(self, x: Tensor) -> Tensor:
        """Values."""
        return self._attention.project("to_v", x)


def is_equivalent(processor: object) -> bool:
    """Whether a processor computes what quantized attention computes by itself."""
    return type(processor).__name__ in EQUIVALENT


def run(
    processor: Processor,
    attention: Projecting,
    hidden: Tensor,
    context: Tensor | None,
    mask: Tensor | None,
    arguments: Mapping[str, Any],
) -> Tensor:
    """What a processor computes on quantized projections.

    Arguments that it does not know are left away, as by stock attentions.
    """
    known = inspect.signature(processor.__call__).parameters
    given = {name: value for name, value in arguments.items() if name in known}
    view = Projections(attention)
    return processor(view, hidden, encoder_hidden_states=context, attention_mask=mask, **given)
