"""What is learned together, against what, and where forward passes wait for it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


class Target(ABC):
    """A unit of reconstruction.

    Forward passes are suspended where ``entrance`` is called; its arguments are the target's input.
    """

    @property
    @abstractmethod
    def entrance(self) -> nn.Module:
        """The module at whose call passes are suspended; the UNet to suspend them at its start."""

    @property
    def runs_in_pass(self) -> bool:
        """Whether the target is what ``entrance`` computes, so that a resumed pass runs it.

        Otherwise ``run`` is called for the output, and the pass resumes as if nothing had happened.
        """
        return True

    @abstractmethod
    def parts(self) -> Iterator[nn.Module]:
        """All modules that are learned with this target and with no other."""

    @abstractmethod
    def run(self, *args: Any, **kwargs: Any) -> Tensor:
        """The output to reconstruct, for the arguments that ``entrance`` was called with."""
