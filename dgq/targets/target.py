"""The interface of a target: what is learned together, its reference, and where passes wait."""

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
        """The module at whose call passes are suspended; the UNet itself for its start."""

    @property
    def runs_in_pass(self) -> bool:
        """Whether ``entrance`` computes the target's output, so that resuming runs the target.

        Otherwise ``run`` is called for the output, and the pass resumes unchanged.
        """
        return True

    @abstractmethod
    def parts(self) -> Iterator[nn.Module]:
        """All modules that are learned with this target only."""

    @abstractmethod
    def run(self, *args: Any, **kwargs: Any) -> Tensor:
        """The output to reconstruct, for the arguments of the call of ``entrance``."""
