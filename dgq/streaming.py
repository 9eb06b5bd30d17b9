"""Many forward passes of one UNet that wait together at each target.

Every micro-batch runs the stock ``unet(...)`` in a greenlet of its own. A pre-hook on each target
suspends the pass there and hands the target's inputs out; resuming it runs the target, whatever
state it is in by then, and goes on to the next. Nothing here knows the architecture, the result is
that of a plain forward, and the only tensors alive are those that the suspended passes hold.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dgq.context import context_of


class TargetInput(NamedTuple):
    """Arguments with which a micro-batch calls a target, and the steps of its samples."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    step: Tensor


class Arrival(NamedTuple):
    """A pass has reached a target."""

    name: str
    target_input: TargetInput


class Stream:
    """Forward passes of a quantized UNet, advanced from target to target.

    Use as a context manager: on exit the hooks are removed and unfinished passes dropped.

    Args:
        unet: a quantized UNet.
        targets: where the passes wait, by name.
        calls: keyword arguments of the UNet call of each micro-batch.
    """

    def __init__(
        self,
        unet: nn.Module,
        targets: Mapping[str, nn.Module],
        calls: Sequence[Mapping[str, Any]],
    ) -> None:
        self.unet = unet
        self.waiting_at: str | None = None
        self.inputs: list[TargetInput] = []
        self.outputs: list[Tensor] = []
        self.results: list[Any] = []
        self._passes = [greenlet(lambda call=call: unet(**call)) for call in calls]
        self._hooks = [hook for n, m in targets.items() for hook in self._hook(n, m)]

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks and drop the passes that have not finished."""
        for hook in self._hooks:
            hook.remove()
        for suspended in self._passes:
            # Unwinding a suspended pass raises GreenletExit in it, which frees what it holds.
            if suspended:
                suspended.throw()
        self._passes, self.inputs, self.outputs, self.results = [], [], [], []

    @torch.no_grad()
    def advance(self) -> str | None:
        """Run every pass through the target it waits at, up to the next one.

        Sets ``outputs`` to what that target computed for each micro-batch, ``inputs`` to the
        arguments of the next, and at the end ``results`` to what the UNet returned.

        Returns:
            The name of the target that all passes wait at now; ``None`` when they have finished.
        """
        self.inputs, self.outputs = [], []
        arrivals = [suspended.switch() for suspended in self._passes]
        names = {a.name if isinstance(a, Arrival) else None for a in arrivals}
        if len(names) != 1:
            raise RuntimeError(f"micro-batches took different ways through the UNet: {names}")
        self.waiting_at = names.pop()
        if self.waiting_at is not None:
            self.inputs = [a.target_input for a in arrivals]
        else:
            self.results = arrivals
        return self.waiting_at

    def _hook(self, name: str, module: nn.Module) -> list[RemovableHandle]:
        return [
            module.register_forward_pre_hook(self._suspender(name), with_kwargs=True),
            module.register_forward_hook(self._collector()),
        ]

    def _suspender(self, name: str) -> Callable[..., None]:
        def suspend(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            current = getcurrent()
            if current not in self._passes or current.parent is None:
                return
            context = context_of(self.unet)
            step, size = context.step, context.current_size
            current.parent.switch(Arrival(name, TargetInput(args, kwargs, step)))
            # Other passes have run meanwhile; the context must speak of this one again.
            context.step, context.current_size = step, size

        return suspend

    def _collector(self) -> Callable[..., None]:
        def collect(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
            if getcurrent() in self._passes:
                self.outputs.append(output)

        return collect
