"""Load other weights into a pipeline's UNet, strictly, with a one-line error if they do not fit."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from dgq.errors import DGQError
from dgq.storage.tensor_files import read_tensors


def load_weights_(unet: nn.Module, path: Path) -> None:
    """Load a safetensors file of any precision into a UNet, converted to the UNet's dtype.

    Raises:
        DGQError: if it cannot be read, or names or shapes differ.
    """
    weights, _ = read_tensors(path)
    problem = misfit(unet, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    if problem is not None:
        raise DGQError(f"{path} is not of this pipeline's UNet: {problem}")
    unet.load_state_dict(weights)


def misfit(module: nn.Module, given: Mapping[str, tuple[int, ...]]) -> str | None:
    """The first thing wrong with the names and shapes given to a module, if any."""
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name in own:
        if name not in given:
            return f"{name} is missing"
        if given[name] != own[name]:
            return f"{name} is {list(given[name])}, expected {list(own[name])}"
    return next((f"{name} is not in the UNet" for name in given if name not in own), None)
