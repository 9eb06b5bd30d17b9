"""Attention processors that pipelines bring along, on quantized attentions."""

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
"""Processors that stand for what quantized attention computes; stock ones differ in speed alone."""


IGNORED = ("scale", "temb")
"""Keyword arguments that stock processors take and do not use here (the scale of a LoRA)."""

OF_CROSS_ATTENTION = ("ip_adapter_masks", "ip_hidden_states")
"""Keyword arguments of an IP-Adapter, which self-attention gets as well and has no use for."""


class Processor(Protocol):
    """What computes an attention, from its projections."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``[batch, tokens, channels]``, the same shape back."""
        ...


class QuantAttnProcessor:
    """Stands where stock code looks for a processor: quantized attention computes all itself."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Let the attention compute."""
        output: Tensor = attn(hidden_states, *args, **kwargs)
        return output


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


class TakesProcessors:
    """Mixed into quantized attentions: what pipelines do to processors."""

    _modules: dict[str, Any]
    own_processor: Processor | None
    """What computes in the place of the attention itself, if anything."""

    @property
    def score_bits(self) -> int:
        """Bits of the scores, FLOAT_BITS in floating point."""
        raise NotImplementedError

    @property
    def processor(self) -> Processor:
        """What stock code takes for the processor."""
        return QuantAttnProcessor() if self.own_processor is None else self.own_processor

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "processor":
            self.set_processor(value)
        else:
            super().__setattr__(name, value)

    def get_processor(self, return_deprecated_lora: bool = False) -> Processor:
        """What ``set_processor`` takes back."""
        return self.processor

    def set_processor(self, processor: Processor) -> None:
        """Keep computing what an equivalent stock processor would; let another one compute.

        Raises:
            DGQError: for another one, where scores are quantized.
        """
        self.check_processor(processor)
        self._modules.pop("own_processor", None)
        self.own_processor = None if is_equivalent(processor) else processor

    def check_processor(self, processor: Processor) -> None:
        """Raise DGQError for a processor that would leave out what is quantized."""
        if not is_equivalent(processor) and self.score_bits != FLOAT_BITS:
            raise DGQError(
                f"the processor {type(processor).__name__} computes attention in its own way, "
                "without the quantizer of the scores: use a recipe that leaves scores in floating "
                "point (scores.n_bits: 16, as w4a8), or the pipeline in full precision"
            )

    def fuse_projections(self, fuse: bool = True) -> None:
        """Nothing to do: q, k and v read one quantized tensor, and the result would be the same."""


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

    Arguments that it does not know are left out, as by stock attentions.
    """
    known = inspect.signature(processor.__call__).parameters
    given = {name: value for name, value in arguments.items() if name in known}
    view = Projections(attention)
    return processor(view, hidden, encoder_hidden_states=context, attention_mask=mask, **given)


def check_arguments(arguments: Mapping[str, Any], of_text: bool) -> None:
    """Raise DGQError for an argument that would change what a stock attention computes."""
    ignored = IGNORED if of_text else IGNORED + OF_CROSS_ATTENTION
    for name, value in arguments.items():
        if value is not None and name not in ignored:
            raise DGQError(
                f"cross_attention_kwargs: quantized attention does not know {name!r}: leave it "
                "away, or use the pipeline in full precision"
            )
