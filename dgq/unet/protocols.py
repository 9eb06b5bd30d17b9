"""What a quantized UNet needs of the packages that run, load and save it."""

from pathlib import Path
from typing import Protocol

import torch
from torch import nn


class Execution(Protocol):
    """How a quantized UNet runs (``dgq.inference.execution``)."""

    integer_layers: int
    """Layers that multiply integers."""

    def run_in_float_(self, unet: nn.Module) -> None:
        """Let it run in floating point from now on, since its tensors are moved one by one."""

    def check(self, unet: nn.Module) -> None:
        """Raise DGQError unless its tensors, in their stored form, can be those of a model."""

    def cast_(self, unet: nn.Module, dtype: torch.dtype) -> None:
        """Make a UNet compute in another precision, as if it had been loaded in it."""

    def before_move_(self, unet: nn.Module) -> None:
        """Let it take its stored form, before it is moved to another device as a whole."""

    def after_move_(self, unet: nn.Module) -> None:
        """Let it run as fast as the device can that it was moved to."""


class Quantizer(Protocol):
    """What loads and saves a quantized UNet (``dgq.storage.diffusers_quantizer``)."""

    def describe(self, unet: nn.Module) -> None:
        """Seal the description that is about to be saved; raise DGQError if that is impossible."""

    def write_card(self, unet: nn.Module, folder: Path, repo_id: str) -> None:
        """Put the model card into a folder that was saved and is about to be uploaded."""
