"""Compiling a quantized UNet by itself: what its graph takes for granted of quantized layers.

Before each call torch checks all that a graph was made for, in a quantized layer some sixty things.
Together that takes longer than launching the call does. But such a layer is laid out as a whole and
then stays as it is: one string that tells layouts apart says as much.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

CLASS = "TYPE_MATCH"
"""Guards on what class an object is of."""
HOOKS = "EMPTY_NN_MODULE_HOOKS_DICT"
"""Guards on hooks, which are put on modules in place; torch checks them where it is told to."""

CALLS = re.compile(r"(?:[\w.]+\()*")
"""What an expression such as ``dict(type(self.conv_in).__mro__[2].__dict__)`` begins with."""


class Guard(Protocol):
    """What torch tells of a guard (``torch._dynamo.types.GuardFilterEntry``)."""

    name: str
    """Of what is checked, as an expression: ``self._modules['conv_in'].training``."""
    value: object
    guard_type: str


Filter = Callable[[Sequence[Guard]], Sequence[bool]]


class LaidOut:
    """Mixed into what is laid out for a device as a whole (``dgq.inference.layout``)."""

    @property
    def is_laid_out(self) -> bool:
        """Whether it is now, so that nothing in it changes before the UNet's layout does."""
        return True


class Compiles(nn.Module):
    """Mixed into quantized UNets: compiled by their own method, they check less at each call."""

    layout: str = ""
    """Tells apart what graphs take for granted of modules that are laid out; empty without any."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As of any module, but calls do not check what is inside of quantized layers.

        Nor whether one was given another ``forward``, as torch does not check for new hooks.

        Of other compilers than Inductor a ``mode`` cannot be told as options; then all is checked.
        """
        super().compile(*args, **with_filter(kwargs))


def check_at_each_call(layout: str) -> None:
    """Let a graph that is being made hold for one layout alone: what is branched on is guarded."""
    if layout:
        pass


def needed(guards: Sequence[Guard]) -> list[bool]:
    """Which guards are to be checked at each call: of what is laid out, that on its class alone."""
    owners = {g.name for g in guards if isinstance(g.value, LaidOut) and g.value.is_laid_out}

    def is_needed(guard: Guard) -> bool:
        if is_inside(guard.name, owners):
            return guard.guard_type == HOOKS
        return guard.name not in owners or guard.guard_type == CLASS

    return [is_needed(guard) for guard in guards]


def is_inside(name: str, owners: set[str]) -> bool:
    """Whether an expression is of an attribute or item, of any depth, of one of some others.

    Or of its class: torch copies a class's dictionary each time to see whether a method is in it.
    """
    bare = CALLS.sub("", name, count=1)
    return any(bare[:i] in owners for i, letter in enumerate(bare) if letter in ".[)")


def with_filter(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``torch.compile`` that leave out the guards that are not needed.

    Args:
        arguments: as they were given; a filter among them is heeded as well.
    """
    mode, options = arguments.get("mode"), arguments.get("options")
    if mode is not None:
        if options is not None or arguments.get("backend", "inductor") != "inductor":
            return dict(arguments)  # torch refuses both, and options of a mode are Inductor's
        options = torch._inductor.list_mode_options(mode, arguments.get("dynamic"))
    options = dict(options or {})
    options["guard_filter_fn"] = both(needed, options.get("guard_filter_fn"))
    return {**arguments, "mode": None, "options": options}


def both(ours: Filter, theirs: Filter | None) -> Filter:
    """What passes two filters, or one alone."""
    if theirs is None:
        return ours
    return lambda guards: [a and b for a, b in zip(ours(guards), theirs(guards), strict=True)]
