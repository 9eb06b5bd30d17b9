"""Custom attention processors of pipelines, on quantized attentions."""

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from dgq.errors import DGQError
from dgq.settings import FLOAT_BITS

EQUIVALENT = (
    *("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor"),
    *("FusedAttnProcessor2_0", "QuantAttnProcessor"),
)
"""Processors equivalent to quantized attention; the stock ones differ in speed only."""

STOCK = "diffusers.models.attention_processor"
"""The module of the stock ones: other code has classes of the same names that compute otherwise."""

IGNORED = ("scale", "temb")
"""Keyword arguments of stock processors that have no effect here (the scale of a LoRA)."""

OF_CROSS_ATTENTION = ("ip_adapter_masks", "ip_hidden_states")
"""Keyword arguments of an IP-Adapter; self-attention gets them as well and ignores them."""


class Processor(Protocol):
    """A callable that computes an attention from its projections."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``[batch, tokens, channels]``, the same shape back."""
        ...


class QuantAttnProcessor:
    """The processor that stock code sees on a quantized attention, which computes by itself."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Delegate to the attention."""
        output: Tensor = attn(hidden_states, *args, **kwargs)
        return output


class Projecting(Protocol):
    """A quantized attention."""

    def project(self, name: str, x: Tensor) -> Tensor:
        """``to_q``, ``to_k`` or ``to_v`` of a tensor that has not been quantized."""
        ...


class Projections:
    """A quantized attention as a processor sees it, with projections that quantize their input.

    Args:
        attention: the quantized attention.
    """

    def __init__(self, attention: Projecting) -> None:
        self._attention = attention

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attention, name)

    def to_q(self, x: Tensor) -> Tensor:
        """Queries for ``[batch, tokens, channels]``."""
        return self._attention.project("to_q", x)

    def to_k(self, x: Tensor) -> Tensor:
        """Keys."""
        return self._attention.project("to_k", x)

    def to_v(self, x: Tensor) -> Tensor:
        """Values."""
        return self._attention.project("to_v", x)


class TakesProcessors:
    """Mixed into quantized attentions: the methods by which pipelines exchange processors."""

    _modules: dict[str, Any]
    own_processor: Processor | None
    """A custom processor that computes instead of the attention itself, if any."""

    @property
    def score_bits(self) -> int:
        """Bits of the scores, FLOAT_BITS in floating point."""
        raise NotImplementedError

    @property
    def processor(self) -> Processor:
        """The processor that stock code sees."""
        return QuantAttnProcessor() if self.own_processor is None else self.own_processor

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "processor":
            self.set_processor(value)
        else:
            super().__setattr__(name, value)

    def get_processor(self, return_deprecated_lora: bool = False) -> Processor:
        """The processor, as ``set_processor`` accepts it."""
        return self.processor

    def set_processor(self, processor: Processor) -> None:
        """Ignore a processor equivalent to this attention; let any other one compute.

        Raises:
            DGQError: for a processor that is not equivalent, if scores are quantized.
        """
        self.check_processor(processor)
        self._modules.pop("own_processor", None)
        self.own_processor = None if is_equivalent(processor) else processor

    def check_processor(self, processor: Processor) -> None:
        """Raise DGQError for a processor that would skip the quantization of scores."""
        if not is_equivalent(processor) and self.score_bits != FLOAT_BITS:
            raise DGQError(
                f"the processor {type(processor).__name__} computes attention in its own way, "
                "without the quantizer of the scores: use a recipe that leaves scores in floating "
                "point (scores.n_bits: 16, as w4a8), or the pipeline in full precision"
            )

    def fuse_projections(self, fuse: bool = True) -> None:
        """Do nothing: q, k and v read one quantized tensor, so the result would be the same."""


def is_equivalent(processor: object) -> bool:
    """Whether a processor computes the same as quantized attention."""
    kind = type(processor)
    return kind.__name__ in EQUIVALENT and kind.__module__ in (STOCK, __name__)


def run(
    processor: Processor,
    attention: Projecting,
    hidden: Tensor,
    context: Tensor | None,
    mask: Tensor | None,
    arguments: Mapping[str, Any],
) -> Tensor:
    """The output of a processor on quantized projections.

    Arguments that it does not accept are dropped, as stock attentions do.
    """
    known = inspect.signature(processor.__call__).parameters
    given = {name: value for name, value in arguments.items() if name in known}
    view = Projections(attention)
    return processor(view, hidden, encoder_hidden_states=context, attention_mask=mask, **given)


def check_arguments(arguments: Mapping[str, Any], of_text: bool) -> None:
    """Raise DGQError for an argument that would change the output of a stock attention."""
    ignored = IGNORED if of_text else IGNORED + OF_CROSS_ATTENTION
    for name, value in arguments.items():
        if value is not None and name not in ignored:
            raise DGQError(
                f"cross_attention_kwargs: quantized attention does not know {name!r}: leave it "
                "away, or use the pipeline in full precision"
            )
