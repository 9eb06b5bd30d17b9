"""Gradient checkpointing: a block that runs again does so at the step of its first run."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from dgq.unet.calls import SamplerCall, SamplerCalls


def plain_checkpoint(module: nn.Module, *args: Any) -> Any:
    """Torch's checkpoint function, called as diffusers does."""
    return checkpoint(module.__call__, *args, use_reentrant=False)


def checkpoint_at_step(
    calls: SamplerCalls, inner: Callable[..., Any], module: nn.Module, *args: Any
) -> Any:
    """Let ``inner`` run a module at this call's step, now and again in the backward pass."""
    return inner(_AtStep(calls, calls.current, module), *args)


class _AtStep:
    """A module that always runs as in the call in which it was wrapped."""

    def __init__(self, calls: SamplerCalls, call: SamplerCall | None, module: nn.Module) -> None:
        self._calls, self._call, self._module = calls, call, module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._calls.during(self._call):
            return self._module(*args, **kwargs)
