"""The whole UNet as a target, visited after all others have been reconstructed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dgq.targets.target import Target

NETWORK = "network"
"""Its name among the targets."""


@dataclass(frozen=True)
class Network(Target):
    """A UNet, reconstructed at its output.

    Args:
        unet: the UNet, whose other targets are all finished.
    """

    unet: nn.Module

    @property
    def entrance(self) -> nn.Module:
        """The UNet."""
        return self.unet

    def parts(self) -> Iterator[nn.Module]:
        """All modules."""
        yield from self.unet.modules()

    def run(self, *args: Any, **kwargs: Any) -> Tensor:
        """The UNet's output."""
        output: Tensor = self.unet(*args, **kwargs)[0]
        return output
