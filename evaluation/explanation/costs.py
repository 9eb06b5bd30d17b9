"""The cost of each layer before and after quantization: weights, products, bytes, time."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dgq.inspection.cost import LAYERS
from dgq.inspection.layer_costs import LayerCost, layer_costs

WARM_UP, REPEATS = 1, 3


@dataclass(frozen=True)
class Costs:
    """Costs of one layer.

    Args:
        before: cost in full precision.
        after: cost when quantized.
        seconds_before: seconds of a call in full precision.
        seconds_after: seconds of a call as the quantized model runs here.
    """

    before: LayerCost
    after: LayerCost
    seconds_before: float
    seconds_after: float

    def to_dict(self) -> dict[str, float]:
        """The costs that are drawn."""
        return {
            "weights": self.before.weights,
            "macs": self.before.macs,
            "bytes_before": self.before.weight_bytes,
            "bytes_after": self.after.weight_bytes,
            "bops_before": self.before.bops,
            "bops_after": self.after.bops,
            "seconds_before": self.seconds_before,
            "seconds_after": self.seconds_after,
        }


@torch.no_grad()
def compared_costs(
    stock: nn.Module, quantized: nn.Module, call: Mapping[str, Any]
) -> dict[str, Costs]:
    """Costs of every layer by name, in the order in which they run.

    Args:
        stock: the full-precision UNet.
        quantized: the quantized UNet as it runs here.
        call: keyword arguments of a batch.
    """
    before, after = layer_costs(stock, call), layer_costs(quantized, call)
    times = layer_seconds(stock, call), layer_seconds(quantized, call)
    return {
        name: Costs(cost, after[name], times[0][name], times[1][name])
        for name, cost in before.items()
        if name in after
    }


def layer_seconds(unet: nn.Module, call: Mapping[str, Any]) -> dict[str, float]:
    """The shortest wall time of each layer over some calls, including its input quantizer."""
    least: dict[str, float] = {}
    for _ in range(WARM_UP + REPEATS):
        with timing(unet) as seconds:
            unet(**call)
        least = {n: min(s, least.get(n, s)) for n, s in seconds.items()}
    return least


@contextmanager
def timing(unet: nn.Module) -> Iterator[dict[str, float]]:
    """Measure the seconds of each layer's call."""
    started: dict[str, float] = {}
    seconds: dict[str, float] = {}

    def begin(name: str) -> Any:
        return lambda *_: started.__setitem__(name, time.perf_counter())

    def end(name: str) -> Any:
        return lambda *_: seconds.__setitem__(name, time.perf_counter() - started[name])

    hooks = []
    for name, module in unet.named_modules():
        if isinstance(module, LAYERS):
            hooks.append(module.register_forward_pre_hook(begin(name)))
            hooks.append(module.register_forward_hook(end(name)))
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


def by_block(costs: Mapping[str, Costs]) -> dict[str, dict[str, float]]:
    """Sums over the blocks of the UNet, such as ``down_blocks.0`` and ``time_embedding``."""
    sums: dict[str, dict[str, float]] = {}
    for name, cost in costs.items():
        total = sums.setdefault(block_of(name), dict.fromkeys(cost.to_dict(), 0.0))
        for key, value in cost.to_dict().items():
            total[key] += value
    return sums


def block_of(name: str) -> str:
    """The block that contains a layer."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] in ("down_blocks", "up_blocks") else parts[0]
