"""``dgq.plan``: what a calibration would do and take; nothing is started, written or downloaded."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from dgq.calibration.memory import STREAMS, free_bytes, waiting_bytes
from dgq.calibration.samples import Amount
from dgq.errors import DGQError
from dgq.inspection.cost import count_operations
from dgq.inspection.layer_costs import LayerCost, layer_costs
from dgq.planning import sizes
from dgq.planning.duration import Work, estimated_seconds
from dgq.planning.empty import (
    empty_call,
    empty_unet,
    latent_size_of,
    local_folder,
    tokens_of,
    unet_config,
)
from dgq.planning.layers import PlannedLayer, planned_layers, shares_of_macs
from dgq.planning.rates import measure_rates
from dgq.planning.sampler import sampler_timesteps
from dgq.planning.table import lines
from dgq.recipes import Recipe, find_recipe
from dgq.settings import (
    LearningSettings,
    QuantizationSettings,
    WaitingSettings,
    check_kind,
    check_positive,
)
from dgq.settings.shared_inputs import input_owner
from dgq.storage.manifest import GenerationSettings
from dgq.targets import Target
from dgq.torch_defaults import torch_defaults
from dgq.unet.devices import usable_device
from dgq.unet.quantize import skip_readers
from dgq.unet.split_layer import split_

DEFAULT_GENERATION = GenerationSettings()
ON_DEVICE = WaitingSettings()


@dataclass(frozen=True)
class Plan:
    """What a calibration would do.

    Args:
        pipeline: the pipeline to calibrate.
        settings: what is quantized and how.
        learning: how weights and ranges are learned.
        targets: number of weights of each target, by name.
        layers: how each quantized layer will compute, by name.
        kept: number of weights of each layer in full precision, by name.
        shares: shares of the layers' multiply-accumulates by how they are computed.
        amount: numbers of samples.
        n_prompts: prompts that the full-precision pipeline draws, including held-out ones.
        n_calls: UNet calls per prompt.
        waiting: where suspended samples are kept.
        n_bytes: bytes of files and memory, by name.
        seconds: estimated seconds, by phase.
        free_bytes: free bytes where suspended samples are kept.
        machine: the machine that the estimate is for.
        shares_bits: bits are allocated by layer; the settings give their mean.
        visits_network: the UNet as a whole is learned after its targets.
    """

    pipeline: str
    settings: QuantizationSettings
    learning: LearningSettings
    targets: Mapping[str, int]
    layers: Mapping[str, PlannedLayer]
    kept: Mapping[str, int]
    shares: Mapping[str, float]
    amount: Amount
    n_prompts: int
    n_calls: int
    waiting: WaitingSettings
    n_bytes: Mapping[str, int]
    seconds: Mapping[str, float]
    free_bytes: int
    machine: str
    shares_bits: bool = False
    visits_network: bool = False

    def __str__(self) -> str:
        """A line for each fact to know before a calibration, as ``--dry_run`` prints them."""
        return "\n".join(f"{name:24}{value}" for name, value in lines(self))

    @property
    def largest_target(self) -> str:
        """The target with the most weights."""
        return max(self.targets, key=lambda name: self.targets[name])

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values for JSON."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return found | {"amount": self.amount._asdict(), "largest_target": self.largest_target}


@torch.no_grad()
@torch_defaults()
def plan(
    pipeline: str,
    recipe: str | Recipe | QuantizationSettings = "w4a8",
    *,
    generation: GenerationSettings = DEFAULT_GENERATION,
    n_prompts: int = 128,
    n_held_out_prompts: int = 4,
    n_samples: int | None = None,
    n_held_out: int = 16,
    batch_size: int = 16,
    waiting: WaitingSettings = ON_DEVICE,
    device: str | torch.device = "cpu",
) -> Plan:
    """Estimate what a calibration would do and cost, without starting it.

    Reads configurations, never weights, and runs one layer for a second to measure the speed of
    this machine. Memory and time are estimates: the time may be off by a factor of two.

    Args:
        pipeline: name of an embedded model, folder, or id of a model in the hub's cache.
        recipe: a name (``dgq.RECIPES``), a ``Recipe``, or settings with default learning.
        generation: how the pipeline is run.
        n_prompts: prompts to learn on.
        n_held_out_prompts: further prompts, held out.
        n_samples: samples to learn on, evenly over the calls; all by default.
        n_held_out: samples that errors are measured on.
        batch_size: rows per learning step.
        waiting: where suspended samples are kept.
        device: device that computes.

    Raises:
        DGQError: for what cannot be calibrated.
    """
    chosen = find_recipe(recipe)
    settings, learning, device = chosen.quantization, chosen.learning, usable_device(device)
    check_amounts(generation, waiting, n_prompts, n_held_out_prompts, n_held_out, batch_size)
    folder = local_folder(pipeline)
    config = unet_config(folder)
    timesteps = sampler_timesteps(folder, generation.num_inference_steps)
    distinct = tuple(dict.fromkeys(timesteps))
    stock = empty_unet(config)
    latent_size = latent_size_of(config, folder, (generation.height, generation.width))
    call = empty_call(stock.config, 1, latent_size, tokens_of(folder))
    targets = {n: weights_of(m) for n, m in chosen.targets(stock).items()}
    split_(stock, skip_readers(stock, settings))  # as it will be, layer by layer
    costs = layer_costs(stock, call)
    each = waiting_bytes(stock, chosen, call, latent_size)
    n_halves = 2 if generation.guidance_scale > 1 else 1
    n_pairs = chosen_pairs(len(timesteps), n_prompts, n_samples)
    amount = Amount(n_pairs, n_held_out, n_halves)
    n_drawn = n_prompts + n_held_out_prompts
    macs = count_operations(stock, (), call).macs
    layer, cost = probed(stock, costs)
    rates = measure_rates(layer, cost, batch_size, settings.weights, device)
    quantized = empty_unet(config)
    layers = planned_layers(quantized, settings, distinct, latent_size)
    work = Work(
        macs,
        sum(layer.weights for layer in layers.values() if layer.weight_bits <= 8),
        len(targets),
        n_drawn * len(timesteps) * n_halves,
        (n_pairs + n_held_out) * n_halves,
        batch_size,
    )
    model = sizes.model_bytes(quantized, len(distinct))
    # What an attention quantizes once for several layers is observed once.
    inputs = {(input_owner(n), c.input_shape) for n, c in costs.items() if n in layers}
    n_bytes = {
        "model": model,
        "checkpoint": sizes.checkpoint_bytes(model, [shape for _, shape in inputs], len(distinct)),
        "recorded calls": sizes.recorded_bytes(call, len(timesteps), n_drawn, n_halves),
        "waiting samples": sizes.waiting_total(each, work.streamed_rows, waiting, STREAMS),
        "UNet in float32": sum(p.numel() for p in stock.parameters()) * 4,
    }
    return Plan(
        pipeline,
        settings,
        learning,
        targets,
        layers,
        {n: c.weights for n, c in costs.items() if n not in layers},
        shares_of_macs(layers, costs),
        amount,
        n_drawn,
        len(timesteps),
        waiting,
        n_bytes,
        estimated_seconds(work, learning, rates, chosen.visits_network),
        free_bytes(waiting, device),
        f"{device.type}, {torch.get_num_threads()} threads",
        chosen.measures,
        chosen.visits_network,
    )


def check_amounts(generation: Any, waiting: Any, *numbers: Any) -> None:
    """Raise DGQError for settings or numbers that ``plan`` does not accept."""
    check_kind("generation", generation, GenerationSettings)
    check_kind("waiting", waiting, WaitingSettings)
    names = ("n_prompts", "n_held_out_prompts", "n_held_out", "batch_size")
    for name, value in zip(names, numbers, strict=True):
        check_positive(name, value)


def chosen_pairs(n_calls: int, n_prompts: int, n_samples: int | None) -> int:
    """Number of samples to learn on, the same for each UNet call.

    Raises:
        DGQError: if there cannot be so many.
    """
    for name, value in (("n_prompts", n_prompts), ("n_samples", n_samples)):
        if value is not None:
            check_positive(name, value)
    if n_samples is not None and not n_calls <= n_samples <= n_prompts * n_calls:
        raise DGQError(
            f"n_samples must be {n_calls} (one for each call of the UNet) to "
            f"{n_prompts * n_calls} (calls times prompts), got {n_samples}"
        )
    return n_calls * (n_prompts if n_samples is None else n_samples // n_calls)


def weights_of(target: Target) -> int:
    """Weights of a target's linear and convolution layers."""
    layers = [m for m in target.parts() if isinstance(m, nn.Linear | nn.Conv2d)]
    return sum(layer.weight.numel() for layer in layers)


def probed(unet: nn.Module, costs: Mapping[str, LayerCost]) -> tuple[nn.Module, LayerCost]:
    """The layer with the most multiplications, whose speed stands for all layers."""
    name = max(costs, key=lambda n: costs[n].macs)
    return unet.get_submodule(name), costs[name]
