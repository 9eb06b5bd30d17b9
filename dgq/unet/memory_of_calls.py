"""What quantized layers remember from one UNet call to the next of the same image.

Steps of a sampler change activations little, so the difference to what was quantized at the call
before needs few bits (residual over time, arXiv 2506.22463). Memory belongs to a thread and to one
way down the timesteps. A new image begins with a call at a higher timestep, of another shape, or
at the timestep that the image before began with, which no sampler visits twice: otherwise a picture
of one step, or one after a call that was interrupted, would depend on the picture before it.
"""

from weakref import WeakKeyDictionary

from torch import Tensor, nn


class Memory:
    """What quantizers have summed up and what layers made of it, from the call before.

    Args:
        timestep: of the latest call, ``[1]`` or ``[batch]``.
        shape: of its latents.
    """

    def __init__(self, timestep: Tensor, shape: tuple[int, ...]) -> None:
        self.first = self.timestep = timestep
        self.shape = shape
        # Modules may be exchanged between two calls, by ``prepare_``.
        self._sums: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()
        self._outputs: WeakKeyDictionary[nn.Module, tuple[Tensor, Tensor]] = WeakKeyDictionary()

    def goes_on(self, timestep: Tensor, shape: tuple[int, ...]) -> bool:
        """Whether a call can be the next one of the same image."""
        if shape != self.shape or timestep.shape != self.timestep.shape:
            return False
        goes_down = (timestep <= self.timestep).all() & (timestep < self.first).any()
        return bool(goes_down)

    def sum_of(self, quantizer: nn.Module, like: Tensor) -> Tensor | None:
        """What a quantizer has summed up, if it has the shape and the device that it needs now."""
        found = self._sums.get(quantizer)
        if found is None or (found.shape, found.device) != (like.shape, like.device):
            return None
        return found

    def keep_sum(self, quantizer: nn.Module, total: Tensor) -> None:
        """Keep the sum of a quantizer for the next call."""
        self._sums[quantizer] = total

    def output_of(self, layer: nn.Module, total: Tensor) -> Tensor | None:
        """What a layer made of this very sum of its quantizer, if that is what it made last."""
        source, output = self._outputs.get(layer, (None, None))
        return output if source is total else None

    def keep_output(self, layer: nn.Module, total: Tensor, output: Tensor) -> None:
        """Keep what a layer made of a sum for the next call."""
        self._outputs[layer] = total, output
