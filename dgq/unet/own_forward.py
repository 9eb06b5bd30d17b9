"""A forward that other code assigned to a UNet: its layers still have to know the sampler step.

Code that returns features or edits them (DIFT, DragDiffusion) assigns a ``unet.forward`` that goes
through the blocks itself. accelerate and DeepCache assign one that calls the earlier one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any

from torch import Tensor

from dgq.unet.calls import SamplerCalls

ARGUMENTS = ("sample", "timestep")
"""The first arguments of a UNet's forward."""


class AtItsStep:
    """A forward that runs at the step of its timestep. A class, so that it is copied with its UNet.

    Args:
        calls: calls of the UNet.
        forward: what was assigned.
    """

    def __init__(self, calls: SamplerCalls, forward: Callable[..., Any]) -> None:
        self._calls, self._forward = calls, forward
        update_wrapper(self, forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
        if not all(name in given for name in ARGUMENTS):
            return self._forward(*args, **kwargs)
        with at_step(self._calls, *(given[name] for name in ARGUMENTS)):
            return self._forward(*args, **kwargs)


@contextmanager
def at_step(calls: SamplerCalls, sample: Tensor, timestep: Tensor | float) -> Iterator[None]:
    """Let layers compute at the step of a timestep, in which nothing is remembered."""
    before = calls.current
    calls.current = calls.call_of(sample, timestep)
    try:
        yield
    finally:
        calls.current = before
