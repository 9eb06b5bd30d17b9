"""Peak memory of the tensors of one call."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@torch.no_grad()
def peak_of_call(call: Callable[[], object], device: str | torch.device) -> int:
    """Peak memory of a call in bytes, on top of what was allocated before.

    On a GPU this is what the allocator handed out. A CPU keeps no such account, so there it is the
    tensors alive at once, without kernels' temporary memory.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    live = LiveBytes()
    with live:
        call()
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that were made while the mode is on and are still alive, and their peak.

    Kernels' temporary memory does not appear here.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current = 0
        self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count the storages of its outputs."""
        known = {id_of(t) for t in tree_leaves((args, kwargs)) if has_storage(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if has_storage(tensor) and id_of(tensor) not in known:
                self._add(tensor)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes()
        self._alive.add(key)
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.current -= size


def has_storage(value: object) -> bool:
    """Whether a tensor has memory to count; tensors in oneDNN's layout hide theirs."""
    return isinstance(value, Tensor) and value.layout == torch.strided


def id_of(tensor: Tensor) -> int:
    """Identity of the memory behind a tensor."""
    identity: int = tensor.untyped_storage()._cdata
    return identity
