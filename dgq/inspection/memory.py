"""Memory that a UNet holds: each storage counts once, however many tensors are views of it."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from dgq.inference.kernel_layer import KernelLayer
from dgq.inference.weight_unit import unit_of


class Held(NamedTuple):
    """Memory that a UNet holds.

    Args:
        owner: class of the module that owns it.
        name: name of the first tensor in it.
        dtype: dtype of that tensor, as torch names it.
        n_bytes: bytes of all of it.
    """

    owner: str
    name: str
    dtype: str
    n_bytes: int


def held_by(unet: nn.Module) -> list[Held]:
    """All memory of a UNet's tensors, in the order of its modules."""
    found: dict[int, Held] = {}
    for owner, name, tensor in tensors_of(unet):
        key, n_bytes = memory_of(tensor)
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.setdefault(key, Held(type(owner).__name__, name, dtype, n_bytes))
    return [*found.values()]


def resident_bytes(unet: nn.Module) -> int:
    """Bytes that a UNet's tensors take in memory.

    Packed codes count as they are, weights folded for a CPU as a byte each.
    """
    return sum(held.n_bytes for held in held_by(unet))


def tensors_of(unet: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Tensors of all modules with owners and names, including those of laid-out weights."""
    for module in unet.modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield module, name, parameter
        for name, buffer in module.named_buffers(recurse=False):
            yield module, name, buffer
        if isinstance(module, KernelLayer):
            for name, tensor in module.kernel_weight.tensors.items():
                yield module, f"kernel_{name}", tensor
        unit = unit_of(module)
        if unit is not None:  # all else are its layers' weights
            yield module, "unit_layers", unit.packed.layers
            yield module, "unit_programs", unit.packed.programs


def memory_of(tensor: Tensor) -> tuple[int, int]:
    """An identifier of a tensor's memory, and its bytes."""
    if tensor.is_mkldnn:  # it has no storage that torch knows of
        return id(tensor), tensor.numel() * tensor.element_size()
    storage = tensor.untyped_storage()
    return storage._cdata, storage.nbytes()
