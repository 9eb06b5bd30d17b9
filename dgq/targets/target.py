"""What is learned together, against what, and where forward passes wait for it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


class Target(ABC):
    """A unit of reconstruction.

    Passes of the UNet wait where ``entrance`` is called, whose arguments are the target's input.
    """

    @property
    @abstractmethod
    def entrance(self) -> nn.Module:
        """The module at whose call passes wait; the UNet itself to wait before it begins."""

    @property
    def leaves_by_itself(self) -> bool:
        """Whether the target is what ``entrance`` computes, so that a pass runs it on its way.

        Otherwise ``run`` is called for the output, and the pass goes on as if nothing had been.
        """
        return True

    @abstractmethod
    def parts(self) -> Iterator[nn.Module]:
        """All modules in which something is learned for this target, and for no other."""

    @abstractmethod
    def run(self, *args: Any, **kwargs: Any) -> Tensor:
        """What is reconstructed, for the arguments that ``entrance`` was called with."""
