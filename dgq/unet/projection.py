"""A projection of an attention that is called by itself: by a forward that somebody else wrote.

Code that edits images by their attention (prompt-to-prompt, plug-and-play) assigns its own
``forward`` to attentions and calls ``attn.to_q(x)`` on tensors that nothing has quantized.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.unet.start_token import quantized_tokens


@dataclass(frozen=True)
class Projection:
    """What an attention does around ``to_q``, ``to_k`` or ``to_v``.

    Args:
        input_quantizer: quantizes the tensor that it reads.
        output_quantizer: quantizes its output.
        keep_start: keep the first token of what it reads in full precision.
        keep_start_of_output: keep the first token of its output in full precision.
        scores_quantized: whether the attention quantizes its scores.
    """

    input_quantizer: nn.Module
    output_quantizer: nn.Module
    keep_start: bool
    keep_start_of_output: bool
    scores_quantized: bool

    def quantized(self, x: Tensor) -> Any:
        """What the layer multiplies, for ``[batch, tokens, channels]``."""
        return quantized_tokens(self.input_quantizer, x, self.keep_start)

    def quantized_output(self, output: Tensor) -> Tensor:
        """The layer's output ``[batch, tokens, channels]``, quantized."""
        quantized: Tensor = quantized_tokens(
            self.output_quantizer, output, self.keep_start_of_output
        )
        return quantized

    def alone(self, layer: Callable[..., Tensor], x: Tensor) -> Tensor:
        """The output of the layer by itself, with input and output quantized.

        Raises:
            DGQError: if the attention quantizes its scores, which its caller does not.
        """
        if self.scores_quantized:
            raise DGQError(
                "to_q, to_k or to_v is called by code that computes attention in its own way, "
                "without the quantizer of the scores: use a recipe that leaves scores in floating "
                "point (scores.n_bits: 16, as w4a8), or the pipeline in full precision"
            )
        return self.quantized_output(layer(x, quantized=self.quantized(x)))
