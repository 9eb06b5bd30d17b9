"""What quantized layers remember from one UNet call to the next for the same image.

Activations change little between sampler steps, so their difference from what was quantized at the
previous call needs few bits (residual over time, arXiv 2506.22463). A memory belongs to one thread
and one pass down the timesteps. A new image begins with a call at a higher timestep, with another
shape, or at the timestep that the previous image began with, which no sampler visits twice:
otherwise an image of one step, or one after an interrupted call, would depend on the image before.
"""

from weakref import WeakKeyDictionary

from torch import Tensor, nn


class Memory:
    """Sums of quantizers and outputs of layers, kept from the previous call.

    Args:
        timestep: timestep of the latest call, ``[1]`` or ``[batch]``.
        shape: shape of its latents.
    """

    def __init__(self, timestep: Tensor, shape: tuple[int, ...]) -> None:
        self.first = self.timestep = timestep
        self.shape = shape
        # Weak keys: modules may be exchanged between two calls, by ``prepare_``.
        self._sums: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()
        self._outputs: WeakKeyDictionary[nn.Module, tuple[Tensor, Tensor]] = WeakKeyDictionary()

    def continues(self, timestep: Tensor, shape: tuple[int, ...]) -> bool:
        """Whether a call can be the next one of the same image."""
        if shape != self.shape or timestep.shape != self.timestep.shape:
            return False
        goes_down = (timestep <= self.timestep).all() & (timestep < self.first).any()
        return bool(goes_down)

    def sum_of(self, quantizer: nn.Module, like: Tensor) -> Tensor | None:
        """The sum of a quantizer, if its shape and device still match."""
        found = self._sums.get(quantizer)
        if found is None or (found.shape, found.device) != (like.shape, like.device):
            return None
        return found

    def keep_sum(self, quantizer: nn.Module, total: Tensor) -> None:
        """Keep the sum of a quantizer for the next call."""
        self._sums[quantizer] = total

    def output_of(self, layer: nn.Module, total: Tensor) -> Tensor | None:
        """A layer's output for exactly this sum, if that was the latest it computed."""
        source, output = self._outputs.get(layer, (None, None))
        return output if source is total else None

    def keep_output(self, layer: nn.Module, total: Tensor, output: Tensor) -> None:
        """Keep a layer's output for a sum, for the next call."""
        self._outputs[layer] = total, output
