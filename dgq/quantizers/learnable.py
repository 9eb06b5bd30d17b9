"""Parameters that hold memory only while they are learned."""

from torch import nn


class Learnable(nn.Module):
    """Its parameters are made once, so that one optimizer can hold those of a whole UNet.

    They are empty until a subclass starts them, and again afterwards.
    """

    @property
    def active(self) -> bool:
        """Whether there is something to learn now, by the first of the parameters."""
        first = next(iter(self._parameters.values()))
        return first is not None and first.numel() > 0

    def stop_(self) -> None:
        """Free the memory."""
        for parameter in self.parameters():
            parameter.data = parameter.data.new_empty(0)
            parameter.grad = None
