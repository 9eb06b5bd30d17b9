"""A projection of an attention that is called by itself: by a forward that somebody else wrote.

Code that edits images by their attention (prompt-to-prompt, plug-and-play) assigns its own
``forward`` to attentions and calls ``attn.to_q(x)`` on tensors that nothing has quantized.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.unet.start_token import but_start


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

    input_quantizer: Callable[[Tensor], Any]
    output_quantizer: nn.Module
    keep_start: bool
    keep_start_of_output: bool
    scores_quantized: bool

    def quantized(self, x: Tensor) -> Any:
        """What the layer multiplies, for ``[batch, tokens, channels]``."""
        if self.keep_start:
            return but_start(self.input_quantizer, x, 1)
        return self.input_quantizer(x)

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
        output = layer(x, quantized=self.quantized(x))
        if isinstance(self.output_quantizer, nn.Identity):
            return output
        if self.keep_start_of_output:
            return but_start(self.output_quantizer, output, 1)
        quantized: Tensor = self.output_quantizer(output)
        return quantized
