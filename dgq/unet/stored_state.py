"""Checks of state dicts that are loaded into a quantized UNet."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dgq.errors import DGQError


def holds_stored(unet: nn.Module, state_dict: Mapping[str, Any]) -> bool:
    """Whether a state dict has tensors of quantized layers, rather than of adapters alone."""
    owners = stored_of(unet)
    return any(name.rpartition(".")[0] in owners for name in state_dict)


def stored_of(unet: nn.Module) -> dict[str, set[str]]:
    """Names of the tensors that each module of a quantized UNet stores, by the module's name."""
    return {n: set(m.stored) for n, m in unet.named_modules() if hasattr(m, "stored")}


def check_whole(unet: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Raise DGQError unless each module gets either all tensors that it stores or none.

    Args:
        unet: a quantized UNet in its stored form.
        state_dict: the state dict to be loaded.
    """
    given: dict[str, set[str]] = {}
    for name in state_dict:
        owner, _, leaf = name.rpartition(".")
        given.setdefault(owner, set()).add(leaf)
    for owner, expected in stored_of(unet).items():
        found = given.get(owner, expected)
        if found != expected:
            odd = min(found ^ expected)
            how = "does not belong there" if odd in found else "is missing"
            raise DGQError(f"{owner}.{odd} {how}")
