"""Parameters that hold memory only while they are learned."""

from torch import nn


class Learnable(nn.Module):
    """Parameters that are created once, so that one optimizer can hold those of a whole UNet.

    They are empty before a subclass starts them and after ``stop_``.
    """

    @property
    def active(self) -> bool:
        """Whether anything is being learned, judging by the first parameter."""
        first = next(iter(self._parameters.values()))
        return first is not None and first.numel() > 0

    def stop_(self) -> None:
        """Free the parameters' memory."""
        for parameter in self.parameters():
            parameter.data = parameter.data.new_empty(0)
            parameter.grad = None
