"""How much of the noise in a layer's operands reaches the UNet's output, measured by gradients.

A perturbation ``d`` of an operand changes the output ``y`` by ``J d``. For a random direction
``r`` of independent entries with variance 1, ``E (r^T J d)^2 = |J d|^2``, and ``r^T J`` is the
gradient ``g`` of the operand in a backward pass from ``r``. Rounding errors are nearly independent
of each other, so that

    E |J d|^2 = sum_i E(g_i^2) E(d_i^2).

One backward pass per sample therefore tells how much noise rounding any layer's weight or input, to
any number of bits, would add to the output. The noise of different layers adds up.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from dgq.bars import track
from dgq.errors import DGQError
from dgq.mixed_precision.sensitivities import InputSensitivity, Sensitivity, WeightSensitivity
from dgq.quantizers.observer import RangeObserver, Ranges, as_channels_last
from dgq.settings.shared_inputs import input_owner
from dgq.unet.call_rows import Call, to_device
from dgq.unet.layers import pads

SEED = 0
"""Seed of the random directions, so that the measurement is deterministic."""

CONTEXT = "context"
"""The text that an attention reads, among its tensors."""

Layer = nn.Linear | nn.Conv2d


def measure_sensitivity(
    unet: nn.Module,
    names: Sequence[str],
    calls: Sequence[Call],
    progress: bool = True,
    keep_start: bool = False,
) -> Sensitivity:
    """Measure all layers at once, with one forward and one backward pass per call.

    Args:
        unet: a full-precision stock UNet, which is restored afterwards.
        names: names of the layers to measure.
        calls: keyword arguments of UNet calls, spread over the steps; a call may hold many samples.
        progress: show a bar.
        keep_start: the text's ``<start>`` token will not be quantized where attentions read it.

    Raises:
        DGQError: if a layer never runs, or its gradient is not finite.
    """
    layers = {name: cast(Layer, unet.get_submodule(name)) for name in names}
    timesteps = sorted({t for call in calls for t in timesteps_of(call).tolist()}, reverse=True)
    gather = Gathering(unet, layers, torch.tensor(timesteps), keep_start)
    generator, device = torch.Generator().manual_seed(SEED), next(unet.parameters()).device
    with gather.hooked():
        for call in track(calls, "measuring sensitivity", progress):
            gather.run(to_device(dict(call), device), generator)
    return gather.result()


def timesteps_of(call: Call) -> Tensor:
    """Timestep of each row of a call, ``[batch]``."""
    timestep = torch.as_tensor(call["timestep"]).cpu().reshape(-1).to(torch.float64)
    return timestep.expand(call["sample"].shape[0])


def inputs_of_layers(unet: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """The tensor that each layer reads, by the layer's name; see ``Sensitivity.inputs``.

    Layers of an attention share the input, or the text, since one quantizer quantizes it for them.
    """
    tensors = {}
    for name in names:
        owner = input_owner(name)
        attention = unet.get_submodule(owner)
        if owner == name or not isinstance(attention, Attention):
            tensors[name] = name
        else:
            of_text = attention.is_cross_attention and not name.endswith(".to_q")
            tensors[name] = f"{owner}.{CONTEXT if of_text else 'input'}"
    return tensors


class Gathering:
    """Hooks that sum up squared gradients; see ``measure_sensitivity``.

    Args:
        unet: a stock UNet.
        layers: layers by name.
        timesteps: distinct timesteps, ``[steps]``.
        keep_start: leave the text's first token out, since it will not be quantized.
    """

    def __init__(
        self,
        unet: nn.Module,
        layers: Mapping[str, Layer],
        timesteps: Tensor,
        keep_start: bool = False,
    ) -> None:
        self.unet = unet
        self.keep_start = keep_start
        self.layers = layers
        self.timesteps = timesteps
        self.tensors = inputs_of_layers(unet, list(layers))
        self.ranges = {t: RangeObserver(len(timesteps), False) for t in self.tensors.values()}
        self.of_inputs: dict[str, Tensor] = {}
        self.of_weights: dict[str, Tensor] = {}
        self.macs: dict[str, float] = {}
        self.signal = 0.0
        self._step = torch.zeros(1, dtype=torch.long)
        self._shared: dict[str, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Context that sums up gradients of the weights; everything is restored afterwards."""
        before = [(p, p.requires_grad) for p in self.unet.parameters()]
        self.unet.requires_grad_(False)
        handles = []
        for name, layer in self.layers.items():
            layer.weight.requires_grad_(True)
            handles += [
                layer.register_forward_pre_hook(partial(self._reads, name)),
                layer.register_forward_hook(partial(self._counts, name)),
                layer.weight.register_post_accumulate_grad_hook(partial(self._of_weight, name)),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter, required in before:
                parameter.requires_grad_(required)

    @torch.enable_grad()
    def run(self, call: Call, generator: torch.Generator) -> None:
        """One forward pass, and one backward from a random direction."""
        step = (timesteps_of(call)[:, None] - self.timesteps).abs().argmin(1)
        self._step = step.to(call["sample"].device)
        output = self.unet(**{**call, "return_dict": False})[0]
        self._shared.clear()
        self.signal += float(output.detach().cpu().double().square().sum())
        direction = torch.randn(output.shape, generator=generator).to(output.device)
        if output.requires_grad:  # otherwise no layer ran, which ``result`` says
            (output.float() * direction).sum().backward()

    def _reads(self, name: str, layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        tensor, x = self.tensors[name], args[0]
        found = self._shared.get(tensor)
        if found is None or found[0] is not x:
            self.ranges[tensor].update(self._quantized_part(tensor, x.detach()), self._step)
            # A separate node: other readers of the tensor are no layers, or belong to other
            # quantizers.
            node = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            node.register_hook(partial(self._of_input, tensor))
            found = self._shared[tensor] = (x, node)
        return (found[1], *args[1:])

    def _counts(self, name: str, layer: Layer, args: tuple[Tensor, ...], output: Tensor) -> None:
        fan_in = layer.weight[0].numel()
        self.macs[name] = output.numel() * fan_in / self._step.shape[0]

    def _of_input(self, tensor: str, gradient: Tensor) -> None:
        gradient = self._quantized_part(tensor, gradient)
        squared = as_channels_last(gradient).float().square()
        by_channel = squared.sum(1) if squared.ndim == 3 else squared.sum(1, keepdim=True)
        total = self.of_inputs.get(tensor)
        if total is None:
            total = by_channel.new_zeros(len(self.timesteps), by_channel.shape[1])
        self.of_inputs[tensor] = total.index_add(0, self._step, by_channel)

    def _quantized_part(self, tensor: str, x: Tensor) -> Tensor:
        """All tokens of a tensor but a kept one; a single token is quantized like any other."""
        kept = self.keep_start and tensor.endswith(f".{CONTEXT}") and x.shape[1] > 1
        return x[:, 1:] if kept else x

    def _of_weight(self, name: str, weight: Tensor) -> None:
        assert weight.grad is not None
        squared = weight.grad.float().square().flatten(1).mean(1)
        self.of_weights[name] = self.of_weights.get(name, 0) + squared
        weight.grad = None

    def result(self) -> Sensitivity:
        """The sensitivities, relative to the energy of the outputs.

        Raises:
            DGQError: if a layer never ran, or a gradient is not finite.
        """
        readers: dict[str, list[str]] = {}
        for name, tensor in self.tensors.items():
            readers.setdefault(tensor, []).append(name)
            if name not in self.of_weights or tensor not in self.of_inputs:
                raise DGQError(
                    f"{name} never runs in a call of the UNet, so its sensitivity cannot be "
                    f"measured: keep it in full precision by keep {name}"
                )
        inputs = {
            tensor: InputSensitivity(
                tuple(names),
                any(pads(self.layers[name]) for name in names),
                self._observed(tensor),
                self._relative(self.of_inputs[tensor], tensor),
            )
            for tensor, names in readers.items()
        }
        weights = {
            name: WeightSensitivity(self._relative(total, name), self.macs[name])
            for name, total in self.of_weights.items()
        }
        return Sensitivity(inputs, weights)

    def _observed(self, tensor: str) -> Ranges:
        """Ranges of a tensor; zero at steps without calls."""
        ranges = self.ranges[tensor].channels
        return Ranges(*(torch.where(r.isfinite(), r, 0.0).cpu() for r in ranges))

    def _relative(self, total: Tensor, name: str) -> Tensor:
        relative = total.cpu() / self.signal
        if not bool(relative.isfinite().all()):
            raise DGQError(f"{name}: the gradient is not finite; check that the pipeline draws")
        return relative
