"""Where the tensors of a suspended forward pass wait: on their device, in host memory, or on disk.

A suspended pass holds its tensors in local variables, which cannot be replaced. Their memory can:
``Waiting.park`` copies it elsewhere and frees it, and it returns when an operation uses the tensor
(``Waiting.returning``). A tensor is written once, however often the pass is resumed, and read only
when needed: skip connections stay away until the up path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from greenlet import greenlet
from torch import Tensor, UntypedStorage, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from dgq.settings import WaitingSettings
from dgq.streams.copies import Copy, HostCopy, copier

WORTH_MOVING = 2**16
"""Tensors with fewer bytes stay where they are."""


class Parked:
    """A storage with a copy elsewhere; its own memory is present or freed.

    Args:
        tensor: any tensor on the storage.
        make_copy: makes a copy from the flat content of the storage.
    """

    def __init__(self, tensor: Tensor, make_copy: Callable[[Tensor], Copy]) -> None:
        storage = tensor.untyped_storage()
        self.weak = StorageWeakRef(storage)
        self.n_bytes = storage.nbytes()
        # Copies of an unchanged tensor stay valid; in-place operations raise its version.
        self.version = tensor._version
        self.copy = make_copy(whole_storage(tensor))

    def fill_(self, tensor: Tensor) -> None:
        """Restore the memory and content of the storage under ``tensor``."""
        tensor.untyped_storage().resize_(self.n_bytes)
        whole_storage(tensor).copy_(self.copy.flat())


class Kept:
    """The storages of a module's parameters and buffers, which are never moved.

    Learning replaces parameters and buffers. A weak reference to each storage prevents its address
    from being reused for an activation, and the module is inspected again whenever a pass returns:
    once per target, not for each pass.

    Args:
        owner: the module.
    """

    def __init__(self, owner: nn.Module) -> None:
        self._owner = owner
        self._storages: dict[int, StorageWeakRef] = {}
        self._served: set[int] = set()

    def storages(self, waiting: Waiting) -> Mapping[int, StorageWeakRef]:
        """The storages by address, for the pass that waits in ``waiting``."""
        if not self._served or id(waiting) in self._served:
            own = [*self._owner.parameters(), *self._owner.buffers()]
            storages = [tensor.untyped_storage() for tensor in own]
            self._storages = {storage._cdata: StorageWeakRef(storage) for storage in storages}
            self._served.clear()
        self._served.add(id(waiting))
        return self._storages


class Waiting:
    """The tensors of one suspended pass.

    Args:
        make_copy: function that makes copies.
        kept: storages that stay where they are; none by default.
    """

    def __init__(self, make_copy: Callable[[Tensor], Copy], kept: Kept | None = None) -> None:
        self._make_copy = make_copy
        self._kept = kept
        self._parked: dict[int, Parked] = {}

    def park(self, tensors: Iterable[Tensor]) -> None:
        """Free the memory of these tensors, keeping copies elsewhere; drop unused copies."""
        kept = {} if self._kept is None else self._kept.storages(self)
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata in kept or not movable(storage):
                continue
            parked = self._parked.get(storage._cdata)
            if parked is None or parked.version != tensor._version:
                self._parked[storage._cdata] = Parked(tensor, self._make_copy)
            storage.resize_(0)
        self._parked = {k: p for k, p in self._parked.items() if not p.weak.expired()}

    def fetch_(self, tensor: Tensor) -> None:
        """Restore a tensor's memory if it was freed."""
        storage = tensor.untyped_storage()
        if storage.nbytes() == 0 and storage._cdata in self._parked:
            self._parked[storage._cdata].fill_(tensor)

    def row(self, tensor: Tensor, position: int) -> Tensor:
        """``tensor[position]`` of a tensor whose memory stays away."""
        storage = tensor.untyped_storage()
        if storage.nbytes() or storage._cdata not in self._parked:
            return tensor[position]
        copy = self._parked[storage._cdata].copy.flat()
        offset = tensor.storage_offset() + position * tensor.stride(0)
        row = torch.as_strided(copy, tensor.shape[1:], tensor.stride()[1:], offset)
        return row.to(tensor.device, tensor.dtype, copy=True)

    def returning(self) -> AbstractContextManager[Any]:
        """Context in which a parked tensor's memory returns when an operation uses it."""
        return FetchOnUse(self)


class StayingPut(Waiting):
    """The same interface, for tensors that keep their memory."""

    def __init__(self) -> None:
        super().__init__(lambda flat: HostCopy(flat, flat.dtype))

    def park(self, tensors: Iterable[Tensor]) -> None:
        """Do nothing."""

    def returning(self) -> AbstractContextManager[Any]:
        """A context that does nothing, as no memory is away."""
        return nullcontext()


class FetchOnUse(TorchFunctionMode):
    """Fetches parked arguments before every operation.

    Args:
        waiting: the parked tensors.
    """

    def __init__(self, waiting: Waiting) -> None:
        super().__init__()
        self.waiting = waiting

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Fetch, then run the operation; reading a shape or a dtype needs no memory."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") != "__get__":
            for tensor in tensors_in((args, kwargs)):
                self.waiting.fetch_(tensor)
        return func(*args, **kwargs)


def waiting_places(settings: WaitingSettings, unet: nn.Module, folder: Path) -> Iterator[Waiting]:
    """For each pass of a UNet a place to wait, as the settings say.

    Args:
        settings: place and precision.
        unet: UNet whose parameters and buffers are not moved.
        folder: folder for files, if the place is the disk.
    """
    make_copy = copier(settings, folder)
    if make_copy is None:
        while True:
            yield StayingPut()
    kept = Kept(unet)
    while True:
        yield Waiting(make_copy, kept)


def movable(storage: UntypedStorage) -> bool:
    """Whether a storage is large enough to be worth freeing, and can be freed."""
    return storage.nbytes() >= WORTH_MOVING and storage.resizable()


def whole_storage(tensor: Tensor) -> Tensor:
    """A 1-D view of the whole storage under a tensor."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())


def held_by(suspended: greenlet) -> Iterator[Tensor]:
    """The tensors that the frames of a suspended pass hold in local variables."""
    frame = suspended.gr_frame
    while frame is not None:
        yield from tensors_in(tuple(frame.f_locals.values()))
        frame = frame.f_back


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        yield from tensors_in(tuple(value.values()))
