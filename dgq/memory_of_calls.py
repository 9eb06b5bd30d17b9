"""What quantized layers remember from one UNet call to the next of the same image.

Steps of a sampler change activations little, so the difference to what was quantized at the call
before needs few bits (residual over time, arXiv 2506.22463). Memory belongs to a thread and to one
way down the timesteps: a call at a higher timestep, or of another shape, begins a new image.
"""

from torch import Tensor, nn


class Memory:
    """Tensors of quantizers and layers, from the call before.

    Args:
        timestep: of the latest call, ``[1]`` or ``[batch]``.
        shape: of its latents.
    """

    def __init__(self, timestep: Tensor, shape: tuple[int, ...]) -> None:
        self.timestep = timestep
        self.shape = shape
        self._tensors: dict[int, Tensor] = {}

    def goes_on(self, timestep: Tensor, shape: tuple[int, ...]) -> bool:
        """Whether a call can be the next one of the same image."""
        alike = shape == self.shape and timestep.shape == self.timestep.shape
        return alike and bool((timestep <= self.timestep).all())

    def get(self, owner: nn.Module, like: Tensor) -> Tensor | None:
        """What a module put here, if it has the shape and the device that it needs now."""
        found = self._tensors.get(id(owner))
        if found is None or (found.shape, found.device) != (like.shape, like.device):
            return None
        return found

    def put(self, owner: nn.Module, tensor: Tensor) -> None:
        """Keep a tensor of a module for the next call."""
        self._tensors[id(owner)] = tensor.detach()
