"""Modules whose tensors keep their precision and take their sizes from a checkpoint."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LARGEST_SCALE = 2.0**64
"""Upper bound of scales: products of two larger ones overflow float32; real ones are below 1."""


class StoredTensors(nn.Module):
    """Holds the tensors of a quantized model as parameters that are never trained.

    Being parameters, they are seen by everything that moves models: offloading, device maps, memory
    counts. ``.to(dtype)``, ``.half()`` and the like move them but never round them: scales rounded
    to 16 bits would be other scales.
    """

    def store(self, name: str, tensor: Tensor | None) -> None:
        """Register a tensor under a name, or None in its place."""
        parameter = None if tensor is None else nn.Parameter(tensor, requires_grad=False)
        self.register_parameter(name, parameter)

    @property
    def stored(self) -> dict[str, Tensor]:
        """The tensors of this module itself that a file holds, by name."""
        return {name: tensor for name, tensor in self._parameters.items() if tensor is not None}

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Steps, pixels and groups are known from the tensors alone.
        for name, tensor in self.stored.items():
            saved = state_dict.get(prefix + name)
            if saved is not None:
                self.store(name, torch.empty_like(saved, device=tensor.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        return super()._apply(lambda tensor: exactly(fn, tensor), recurse)  # type: ignore[no-untyped-call]


def is_scale(tensor: Tensor) -> bool:
    """Whether all values can be scales: positive, finite, and not beyond reason."""
    return bool(((tensor > 0) & (tensor < LARGEST_SCALE)).all())


def exactly(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """``fn(tensor)``, a copy or a conversion, without the change of precision."""
    moved = fn(tensor)
    return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
