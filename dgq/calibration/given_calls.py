"""UNet calls recorded by a user: checked, and split into samples."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dgq.calibration.recording import by_name
from dgq.errors import DGQError
from dgq.unet.call_rows import Sample, of_rows

HOW = "dgq.recording(unet) makes such a list"


def samples_in(
    unet: nn.Module, calls: Sequence[Any], name: str = "call", like: Sequence[Sample] = ()
) -> list[Sample]:
    """The samples of all calls, in order; floating-point arguments in float32.

    A sample is a row, or with guidance the rows that share their latents.

    Args:
        unet: UNet that the calls were made to.
        calls: keyword arguments of each call, or pairs of positional and keyword arguments.
        name: name of a call, for messages.
        like: samples that the calls have to match.

    Raises:
        DGQError: for calls that cannot be used together for calibration.
    """
    if not calls:
        raise DGQError(f"there are no calls to calibrate on; {HOW}")
    given = [checked(unet, call, f"{name} {index}") for index, call in enumerate(calls)]
    first = like[0] if like else given[0]
    for index, call in enumerate(given):
        check_alike(first, call, f"{name} {index}")
    return [sample for call in given for sample in split_call(call)]


def checked(unet: nn.Module, call: Any, name: str) -> Sample:
    """One call by argument names, with a timestep for each row and without None values."""
    given = named_arguments(unet, call, name)
    for needed in ("sample", "timestep"):
        if needed not in given:
            raise DGQError(f"{name} has no {needed}; {HOW}")
    known = inspect.signature(type(unet).forward).parameters
    unknown = [key for key in given if key not in known]
    if unknown:
        raise DGQError(f"{name} has an argument that the UNet does not take: {unknown[0]}")
    sample = given["sample"]
    channels = unet.config["in_channels"]  # type: ignore[index]
    if not isinstance(sample, Tensor) or sample.ndim != 4 or sample.shape[1] != channels:
        shape = tuple(sample.shape) if isinstance(sample, Tensor) else type(sample).__name__
        raise DGQError(f"{name}: sample must be [rows, {channels}, height, width], got {shape}")
    n_rows = sample.shape[0]
    given["timestep"] = timesteps_of(given["timestep"], n_rows, name)
    return {key: _whole(value, n_rows, f"{name}: {key}") for key, value in given.items()}


def named_arguments(unet: nn.Module, call: Any, name: str) -> Sample:
    """Arguments by name, from keyword arguments or a pair ``(args, kwargs)``."""
    if isinstance(call, Mapping):
        return by_name(unet, (), dict(call))
    if isinstance(call, tuple | list) and len(call) == 2 and isinstance(call[1], Mapping):
        args, kwargs = call
        if isinstance(args, tuple | list):
            return by_name(unet, tuple(args), dict(kwargs))
    raise DGQError(
        f"{name} is a {type(call).__name__}: expected a UNet call's keyword arguments; {HOW}"
    )


def timesteps_of(timestep: Any, n_rows: int, name: str) -> Tensor:
    """One timestep for each row, ``[rows]``, float32."""
    try:
        found = torch.as_tensor(timestep).detach().cpu().float().reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DGQError(f"{name}: timestep must be a number, got {timestep!r}") from error
    if found.numel() not in (1, n_rows) or not bool(found.isfinite().all()):
        raise DGQError(
            f"{name}: timestep must be one finite number or {n_rows}, got {found.tolist()}"
        )
    return found.expand(n_rows)


def _whole(value: Any, n_rows: int, name: str) -> Any:
    """Nested values with tensors of ``n_rows`` rows, checked."""
    if isinstance(value, Mapping):
        return {k: _whole(v, n_rows, f"{name}.{k}") for k, v in value.items() if v is not None}
    if isinstance(value, tuple | list):
        return [_whole(item, n_rows, f"{name}.{i}") for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, Tensor):
        raise DGQError(
            f"{name} is a {type(value).__name__}: expected a tensor, a number or text; convert "
            "arrays by torch.from_numpy"
        )
    value = value.detach()
    if value.is_floating_point():
        value = value.float()
        if not bool(value.isfinite().all()):
            raise DGQError(f"{name} has values that are not finite: record it again")
    if value.ndim == 0:
        return value.expand(n_rows)
    if value.shape[0] not in (1, n_rows):
        raise DGQError(f"{name} has {value.shape[0]} rows, the latents have {n_rows}")
    return value.expand(n_rows, *value.shape[1:])


def check_alike(first: Sample, other: Sample, name: str) -> None:
    """Raise DGQError unless two calls have the same arguments and shapes, except for rows."""
    expected, found = dict(_shapes(first)), dict(_shapes(other))
    for key in [*expected, *found]:
        if expected.get(key) != found.get(key):
            raise DGQError(
                f"{name} differs from call 0: {key} is {found.get(key, 'missing')}, there "
                f"{expected.get(key, 'missing')}; calibrate on calls of one shape"
            )


def _shapes(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Names of all values, with the shapes of tensors, except for rows."""
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return [each for key, item in items for each in _shapes(item, f"{name}.{key}".strip("."))]
    if isinstance(value, Tensor):
        return [(name, ("rows", *value.shape[1:]))]
    return [(name, value)]


def split_call(call: Sample) -> list[Sample]:
    """The samples of a call: with guidance, rows that share their latents are one sample."""
    latents = call["sample"]
    n_rows = latents.shape[0]
    shares = [
        n
        for n in (3, 2)
        if n_rows % n == 0 and bool((latents.unflatten(0, (n, -1)) == latents[: n_rows // n]).all())
    ]
    n_samples = n_rows // (shares[0] if shares else 1)
    return [of_rows(call, slice(first, None, n_samples)) for first in range(n_samples)]


def timestep_of(sample: Sample) -> float:
    """The timestep of a sample."""
    found = set(sample["timestep"].tolist())
    if len(found) > 1:
        raise DGQError(f"rows that share their latents have different timesteps, {sorted(found)}")
    return found.pop() if found else math.nan
