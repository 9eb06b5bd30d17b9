"""Speed of calibration on this machine, from a probe of a second on one layer of the UNet."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgq.devices import wait
from dgq.inspection.layer_costs import LayerCost
from dgq.math.range_search import weight_range
from dgq.math.rounding import START_TEMPERATURE
from dgq.quantizers.soft_weight import rounding_penalty
from dgq.quantizers.weight_quantizer import WeightQuantizer
from dgq.settings import WeightSettings

MOST_MACS = 2**33
"""Multiply-accumulates of the probe, few enough for it to be short."""

MOST_WEIGHTS = 2**20
"""Weights that the probe rounds, few enough for it to be short."""


@dataclass(frozen=True)
class Rates:
    """Seconds per unit of each kind of work.

    Args:
        forward: seconds per multiply-accumulate of a call.
        learning: seconds per multiply-accumulate of a learning step, forward and backward.
        rounding: seconds per weight of a learning step.
        searching: seconds per weight of the range search.
    """

    forward: float
    learning: float
    rounding: float
    searching: float


def measure_rates(
    stock: nn.Module,
    cost: LayerCost,
    n_rows: int,
    weights: WeightSettings,
    device: torch.device,
) -> Rates:
    """Time one layer with random values, forward and during learning.

    Args:
        stock: the layer, on the meta device.
        cost: its cost for one row.
        n_rows: rows of a learning step.
        weights: how they are quantized.
        device: device to measure on.
    """
    generator = torch.Generator().manual_seed(0)
    layer = stock.to_empty(device=device).requires_grad_(False)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    n_rows = max(1, min(n_rows, MOST_MACS // cost.macs))
    macs = n_rows * cost.macs
    x = torch.randn((n_rows, *cost.input_shape[1:]), generator=generator).to(device)
    forward = seconds(lambda: layer(x), device)
    learning = seconds(lambda: backward(layer, x), device)
    few = layer.weight[: max(1, MOST_WEIGHTS // layer.weight[0].numel())].flatten(1)
    bits, how = searched_bits(weights), (weights.range_method, weights.symmetric)
    search = seconds(lambda: weight_range(few, bits, *how), device, repeats=1)
    rounding = seconds(rounding_step(few, weights), device)
    return Rates(forward / macs, learning / macs, rounding / few.numel(), search / few.numel())


def backward(layer: nn.Linear | nn.Conv2d, x: Tensor) -> None:
    """Compute gradients of weight and input, both of which blocks of several layers need."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        weight = layer.weight.detach().requires_grad_()
        torch.func.functional_call(layer, {"weight": weight}, x).square().sum().backward()


def searched_bits(weights: WeightSettings) -> int:
    """Bits of the codes; 4 for weights in floating point, for which nothing is learned."""
    return weights.n_bits if weights.n_bits <= 8 else 4


def rounding_step(rows: Tensor, weights: WeightSettings) -> Callable[[], None]:
    """A step of learning without the layer: soft weights, penalty, gradients, Adam."""
    quantizer = WeightQuantizer(
        WeightSettings(searched_bits(weights), "minmax", weights.symmetric), rows.shape
    ).to(rows.device)
    quantizer.start_learning_(rows)
    logits = quantizer.learnable.logits
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.01, fused=True)

    def step() -> None:
        with torch.enable_grad():
            optimizer.zero_grad()
            weight, _ = quantizer(None)
            (weight.sum() + rounding_penalty(logits, START_TEMPERATURE)).backward()
        optimizer.step()

    return step


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The shortest time of several runs, after one for warming up.

    On a CPU, processor time divided by the number of threads: other programs hardly change it.
    """
    on_cpu = device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    found = []
    for _ in range(repeats + 1):
        started = clock()
        work()
        wait(device)
        found.append(clock() - started)
    return min(found[1:]) / (torch.get_num_threads() if on_cpu else 1)
