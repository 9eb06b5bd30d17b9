"""A forward that other code assigned to a UNet: its layers still have to know the sampler step.

Code that returns features or edits them (DIFT, DragDiffusion) assigns a ``unet.forward`` that goes
through the blocks itself. accelerate and DeepCache assign one that calls the earlier one.
"""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

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
        call = self._calls.call_of(*(given[name] for name in ARGUMENTS))
        with self._calls.during(call):
            return self._forward(*args, **kwargs)
