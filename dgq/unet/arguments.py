"""Arguments and outputs of a UNet call: nested values, their precision, and NaN."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dgq.errors import DGQError


def converted(value: Any, dtype: torch.dtype) -> Any:
    """Nested arguments with floating-point tensors converted to a dtype, except for image sizes."""
    if isinstance(value, Mapping):
        return {k: v if k == "time_ids" else converted(v, dtype) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(converted(item, dtype) for item in value)
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(dtype)
    return value


def spoilt(output: Any, inputs: Any) -> Any:
    """A UNet's output, with NaN in samples for which one of the inputs is not finite.

    Codes of NaN are ordinary numbers: without this, a pipeline that has overflowed would draw a
    plausible image. Nothing waits for the device.

    Args:
        output: output of the UNet.
        inputs: inputs of the UNet, and the marks that quantizers set for NaNs arising inside.
    """
    image = output[0] if isinstance(output, tuple) else output.sample
    for x in filter(Tensor.is_floating_point, _tensors(inputs)):
        of_each = x.ndim > 0 and x.shape[0] == image.shape[0]
        by_sample = x.reshape(x.shape[0] if of_each else 1, -1)
        image = image + (by_sample * 0).sum(1).view(-1, 1, 1, 1).to(image.dtype)
    return (image, *output[1:]) if isinstance(output, tuple) else type(output)(sample=image)


def check_not_empty(inputs: Any) -> None:
    """Raise DGQError for an empty batch or a text without tokens, which kernels cannot read."""
    for x in _tensors(inputs):
        if x.numel() == 0:
            raise DGQError(
                f"the UNet is called with an empty tensor, {list(x.shape)}: expected at least one "
                "sample, and at least one token of text"
            )


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def returned(output: Any, dtype: torch.dtype) -> Any:
    """A UNet's output, a tuple or an object with ``sample``, in the caller's precision."""
    if isinstance(output, tuple):
        return converted(output, dtype)
    return type(output)(sample=output.sample.to(dtype))
