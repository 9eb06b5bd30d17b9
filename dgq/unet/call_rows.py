"""Keyword arguments of UNet calls outside of the UNet: their rows, and their device."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Call = Mapping[str, Any]
"""Keyword arguments of one call of a UNet."""

Sample = dict[str, Any]
"""Keyword arguments of a UNet call with one sample: the rows that belong together."""


def of_rows(call: Sample, rows: slice) -> Sample:
    """A call with some of its rows."""
    return {name: each_tensor([value], lambda t: t[0][rows]) for name, value in call.items()}


def combined(samples: Sequence[Sample]) -> Sample:
    """Combine several samples into one call."""
    call = {n: each_tensor([s[n] for s in samples], torch.cat) for n in samples[0]}
    return {**call, "return_dict": False}


def each_tensor(values: Sequence[Any], function: Callable[[Any], Tensor]) -> Any:
    """Merge nested values of one structure, applying ``function`` to the tensors at each place."""
    first = values[0]
    if isinstance(first, Tensor):
        return function(list(values))
    if isinstance(first, Mapping):
        return {key: each_tensor([value[key] for value in values], function) for key in first}
    if isinstance(first, list | tuple):
        places = [each_tensor(place, function) for place in zip(*values, strict=True)]
        return places if isinstance(first, list) else tuple(places)
    return first


def to_device(value: Any, device: torch.device | str) -> Any:
    """Nested arguments with their tensors on a device."""
    if isinstance(value, Mapping):
        return {name: to_device(item, device) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(to_device(item, device) for item in value)
    return value.to(device) if isinstance(value, Tensor) else value
