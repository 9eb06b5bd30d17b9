"""Many forward passes of one UNet that wait for each other at each target.

Each micro-batch runs the stock ``unet(...)`` in its own greenlet. A pre-hook on each target
suspends the pass and hands out the target's inputs; resuming runs the target, in whatever state it
is by then, and continues to the next one. Nothing here knows the architecture, the result equals
that of a plain forward pass, and only the tensors that suspended passes hold are alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dgq.streams.micro_batches import TargetInput, gather_inputs, pick_rows, places_of
from dgq.streams.waiting import StayingPut, Waiting, held_by
from dgq.targets.target import Target
from dgq.unet.call_rows import each_tensor
from dgq.unet.context import at_step, context_of


class Arrival(NamedTuple):
    """A pass has reached a target."""

    name: str
    target_input: TargetInput


class Stream:
    """Forward passes of a quantized UNet, advanced from target to target.

    Use as a context manager: on exit, hooks are removed and unfinished passes are dropped. If
    tensors wait elsewhere, read ``inputs`` and ``outputs`` through ``input_rows`` and
    ``output_rows``.

    Args:
        unet: a quantized UNet.
        targets: targets at which the passes wait, by name.
        calls: keyword arguments of the UNet call of each micro-batch.
        places: where the tensors of each pass wait; by default they stay where they are.
    """

    def __init__(
        self,
        unet: nn.Module,
        targets: Mapping[str, Target],
        calls: Sequence[Mapping[str, Any]],
        places: Iterator[Waiting] | None = None,
    ) -> None:
        self.unet = unet
        self.waiting_at: str | None = None
        self.inputs: list[TargetInput] = []
        self.outputs: list[Tensor] = []
        self.results: list[Any] = []
        self._passes = [greenlet(partial(unet, **own(call))) for call in calls]
        self._waiting = [next(places) if places else StayingPut() for _ in calls]
        self._hooks = [hook for n, t in targets.items() for hook in self._hook(n, t)]

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks and drop the passes that have not finished."""
        for hook in self._hooks:
            hook.remove()
        for suspended in self._passes:
            # Closing a suspended pass raises GreenletExit in it, which frees what it holds.
            if suspended:
                suspended.throw()
        self._passes, self._waiting = [], []
        self.inputs, self.outputs, self.results = [], [], []

    @torch.no_grad()
    def advance(self) -> str | None:
        """Run every pass through the target it waits at, up to the next one.

        Sets ``outputs`` to that target's output for each micro-batch, ``inputs`` to the arguments
        of the next target, and at the end ``results`` to the UNet's outputs.

        Returns:
            The name of the target that all passes now wait at; ``None`` when they have finished.
        """
        self.inputs, self.outputs = [], []
        arrivals = [self._resume(*both) for both in zip(self._passes, self._waiting, strict=True)]
        names = {a.name if isinstance(a, Arrival) else None for a in arrivals}
        if len(names) > 1:
            raise RuntimeError(f"micro-batches took different ways through the UNet: {names}")
        self.waiting_at = names.pop() if names else None
        if self.waiting_at is not None:
            self.inputs = [a.target_input for a in arrivals]
        else:
            self.results = arrivals
        return self.waiting_at

    def _resume(self, suspended: greenlet, waiting: Waiting) -> Any:
        context = context_of(self.unet)
        call = context.current
        with waiting.returning():
            arrival = suspended.switch()
        context.current = call  # a suspended pass left its own
        if suspended:
            waiting.park((*held_by(suspended), *self.outputs[-1:]))
        return arrival

    def input_rows(self, rows: Tensor) -> TargetInput:
        """The current target's arguments for samples ``rows [n]``, over all micro-batches."""
        return gather_inputs(self.inputs, rows, self._read)

    def output_rows(self, rows: Tensor) -> Tensor:
        """The last target's outputs for samples ``rows [n]``, over all micro-batches."""
        sizes = [output.shape[0] for output in self.outputs]
        return pick_rows(self.outputs, places_of(rows, sizes), self._read)

    def _read(self, part: int, tensor: Tensor, position: int) -> Tensor:
        return self._waiting[part].row(tensor, position)

    def _hook(self, name: str, target: Target) -> Iterator[RemovableHandle]:
        entrance = target.entrance
        yield entrance.register_forward_pre_hook(self._suspender(name, target), with_kwargs=True)
        if target.runs_in_pass:
            yield entrance.register_forward_hook(self._collector())

    def _suspender(self, name: str, target: Target) -> Callable[..., None]:
        def suspend(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            current = getcurrent()
            if current not in self._passes or current.parent is None:
                return
            context = context_of(self.unet)
            call = context.current
            # Before a UNet call begins, only its timestep tells the step.
            step = context.step_of(kwargs["timestep"]) if module is self.unet else context.step
            current.parent.switch(Arrival(name, TargetInput(args, kwargs, step)))
            # Other passes have run meanwhile: restore this pass's call.
            context.current = call
            if not target.runs_in_pass:
                with at_step(context, step):
                    self.outputs.append(target.run(*args, **kwargs))

        return suspend

    def _collector(self) -> Callable[..., None]:
        def collect(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
            if getcurrent() in self._passes:
                self.outputs.append(output)

        return collect


def own(call: Mapping[str, Any]) -> Any:
    """A call with copies of its tensors, whose memory may be moved."""
    return each_tensor([call], lambda same: same[0].clone())
