"""Arrange the calls that a pipeline made in batches as tensors by call and prompt."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dgq.calibration.unet_calls import UNetCalls, flatten
from dgq.errors import DGQError

OWN_LATENTS = "sample"
"""Arguments that always change from call to call; by half only if halves have their own latents."""


def arranged(calls: Sequence[Mapping[str, Any]], n_prompts: int) -> UNetCalls:
    """Arrange the calls of one batch of prompts, which have all unconditional rows first.

    Args:
        calls: keyword arguments of each call, in order.
        n_prompts: prompts in the batch.

    Raises:
        DGQError: for arguments that are not rows of the prompts.
    """
    parts = [_by_prompt(call, n_prompts) for call in calls]
    names = list(parts[0])
    if any(part.keys() != parts[0].keys() for part in parts):
        raise DGQError("this pipeline gives its UNet other arguments from call to call")
    latents = [part[OWN_LATENTS] for part in parts]
    own = any(bool((each != each[:, :1]).any()) for each in latents)
    constant = [n for n in names if all(same(part[n], parts[0][n]) for part in parts)]
    changing = [n for n in names if n not in constant and n != OWN_LATENTS]
    return UNetCalls(
        torch.stack([each[:, 0] for each in latents]),
        torch.stack([torch.as_tensor(call["timestep"]).reshape(-1)[0] for call in calls]),
        {name: parts[0][name] for name in constant if name != OWN_LATENTS},
        changing={
            name: torch.stack([part[name] for part in parts])
            for name in [*changing, *([OWN_LATENTS] if own else [])]
        },
    )


def joined(batches: Sequence[UNetCalls]) -> UNetCalls:
    """The calls of all batches of prompts together."""
    first = batches[0]
    if not all(same(batch.timesteps, first.timesteps) for batch in batches):
        raise DGQError("this pipeline visits other timesteps from one batch of prompts to the next")
    changing = list(dict.fromkeys(name for batch in batches for name in batch.changing))
    constant = [name for name in first.conditioning if name not in changing]
    return UNetCalls(
        torch.cat([batch.latents for batch in batches], dim=1),
        first.timesteps,
        {name: torch.cat([batch.conditioning[name] for batch in batches]) for name in constant},
        changing={n: torch.cat([for_each_call(b, n) for b in batches], dim=1) for n in changing},
    )


def for_each_call(calls: UNetCalls, name: str) -> Tensor:
    """One argument as ``[calls, prompts, halves, ...]``, whether or not it changes."""
    if name in calls.changing:
        return calls.changing[name]
    if name == OWN_LATENTS:
        return calls.latents.unsqueeze(2).repeat_interleave(calls.n_halves, 2)
    value = calls.conditioning[name]
    return value.expand(len(calls.timesteps), *value.shape)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal."""
    return a is b or (a.shape == b.shape and torch.equal(a, b))


def _by_prompt(call: Mapping[str, Any], n_prompts: int) -> dict[str, Tensor]:
    """Each tensor but the timestep as ``[prompts, halves, ...]``."""
    rows = flatten({name: value for name, value in call.items() if name != "timestep"})
    a_list = next(names_of_lists(call), None)
    if a_list is not None:
        raise DGQError(
            f"this pipeline gives its UNet a list, {a_list}: record its calls with "
            "dgq.recording(pipe.unet), and calibrate on them"
        )
    for name, value in rows.items():
        if value.ndim == 0 or value.shape[0] != call["sample"].shape[0]:
            raise DGQError(
                f"this pipeline gives its UNet {name} of shape {tuple(value.shape)} for "
                f"{call['sample'].shape[0]} rows of latents: expected as many rows"
            )
    return {
        name: value.unflatten(0, (-1, n_prompts)).transpose(0, 1) for name, value in rows.items()
    }


def names_of_lists(arguments: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of lists in nested keyword arguments."""
    for name, value in arguments.items():
        if isinstance(value, list | tuple):
            yield prefix + name
        elif isinstance(value, Mapping):
            yield from names_of_lists(value, f"{prefix}{name}.")
