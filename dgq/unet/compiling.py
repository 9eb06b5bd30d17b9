"""Compiling a quantized UNet: what its graph assumes about quantized layers.

Before each call, torch checks everything that a graph assumes: about sixty things per quantized
layer, which together takes longer than launching the call. But quantized layers are laid out as a
whole and do not change afterwards, so one string that identifies the layout says as much.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

CLASS = "TYPE_MATCH"
"""Guards on an object's class."""
HOOKS = "EMPTY_NN_MODULE_HOOKS_DICT"
"""Guards on hooks, which modules get in place; torch checks them only on request."""

CALLS = re.compile(r"(?:[\w.]+\()*")
"""Beginning of expressions such as ``dict(type(self.conv_in).__mro__[2].__dict__)``."""


class Guard(Protocol):
    """What torch says about a guard (``torch._dynamo.types.GuardFilterEntry``)."""

    name: str
    """The checked object, as an expression: ``self._modules['conv_in'].training``."""
    value: object
    guard_type: str


Filter = Callable[[Sequence[Guard]], Sequence[bool]]


class LaidOut:
    """Mixed into modules and weights that are laid out for a device as a whole."""

    @property
    def is_laid_out(self) -> bool:
        """Whether it is laid out now, and so does not change before the UNet's layout does."""
        return True


class Compiles(nn.Module):
    """Mixed into quantized UNets: compiled by this method, they check less at each call."""

    layout: str = ""
    """Identifies what graphs assume about laid-out modules; empty if there are none."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As ``nn.Module.compile``, but calls do not check the inside of quantized layers.

        A replaced ``forward`` of a layer is not noticed either, just as torch does not check for
        new hooks.

        If a ``mode`` is given for another compiler than Inductor, everything is checked.
        """
        super().compile(*args, **with_filter(kwargs))


def check_at_each_call(layout: str) -> None:
    """Tie the graph being compiled to this layout: values that are branched on are guarded."""
    if layout:
        pass


def needed(guards: Sequence[Guard]) -> list[bool]:
    """Which guards to check at each call: of laid-out objects only the guard on their class."""
    owners = {g.name for g in guards if isinstance(g.value, LaidOut) and g.value.is_laid_out}

    def is_needed(guard: Guard) -> bool:
        if is_inside(guard.name, owners):
            return guard.guard_type == HOOKS
        return guard.name not in owners or guard.guard_type == CLASS

    return [is_needed(guard) for guard in guards]


def is_inside(name: str, owners: set[str]) -> bool:
    """Whether an expression is an attribute or item, at any depth, of one of the owners.

    Or of an owner's class: torch copies the class dictionary each time to look up a method.
    """
    bare = CALLS.sub("", name, count=1)
    return any(bare[:i] in owners for i, letter in enumerate(bare) if letter in ".[)")


def with_filter(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``torch.compile`` that leave out the guards that are not needed.

    Args:
        arguments: the given arguments; a filter among them still applies.
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
    """A filter that keeps what both filters keep; ``theirs`` may be None."""
    if theirs is None:
        return ours
    return lambda guards: [a and b for a, b in zip(ours(guards), theirs(guards), strict=True)]
