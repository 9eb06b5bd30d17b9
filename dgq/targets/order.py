"""The order in which a forward pass reaches its targets."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dgq.errors import DGQError
from dgq.targets.target import Target
from dgq.unet.layers import quantized_layers


@torch.no_grad()
def execution_order(
    unet: nn.Module, targets: Mapping[str, Target], call: Mapping[str, Any]
) -> list[str]:
    """Names of the targets in the order in which a forward pass reaches them.

    Args:
        unet: the UNet that holds them.
        targets: targets by name.
        call: keyword arguments of one UNet call.

    Raises:
        DGQError: if a target or a quantized layer of the UNet does not run exactly once.
    """
    order: list[str] = []
    ran: list[str] = []
    layers = quantized_layers(unet)
    entrances = {name: target.entrance for name, target in targets.items()}
    hooks = [
        module.register_forward_pre_hook(lambda _module, _args, name=name, to=to: to.append(name))
        for modules, to in ((entrances, order), (layers, ran))
        for name, module in modules.items()
    ]
    try:
        unet(**call)
    finally:
        for hook in hooks:
            hook.remove()
    _check_once(targets, order)
    _check_once(layers, ran)
    return order


def _check_once(names: Iterable[str], ran: Sequence[str]) -> None:
    """Raise DGQError unless each of these ran once."""
    counts = Counter(ran)
    for name in names:
        if counts[name] != 1:
            how = "never runs" if counts[name] == 0 else f"runs {counts[name]} times"
            raise DGQError(
                f"{name} {how} in a call of the UNet, so it cannot be calibrated: keep it in "
                f"full precision by quantization.keep {name}*"
            )
