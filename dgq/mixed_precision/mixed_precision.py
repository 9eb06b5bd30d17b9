"""Bits for each layer and its input, at the mean bits and operations of uniform bits."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from dgq.math.exponents import spare_activation_bits, spare_weight_bits
from dgq.mixed_precision.allocation import allocate
from dgq.mixed_precision.rounding_noise import input_variance, scaled_errors, without_exponents
from dgq.mixed_precision.sensitivities import InputSensitivity, Sensitivity
from dgq.settings import ActivationSettings, LayerSettings, WeightSettings
from dgq.settings.shared_inputs import input_owner

MOST_ROWS = 16
"""Output channels of a weight that are rounded for an estimate, spread evenly."""

EXPONENT_BITS = 8
"""Bits of an exponent in the file, for each group of weights."""


@dataclass(frozen=True)
class Choice:
    """Settings for an input and the layers that read it.

    Args:
        weights: of the layers.
        activations: of the input.
    """

    weights: WeightSettings
    activations: ActivationSettings


@dataclass(frozen=True)
class Unit:
    """Layers that get the same choice: a single one, or those whose inputs one attention owns.

    Args:
        owner: name of the layer or attention.
        inputs: tensors that they read; two in cross-attention.
    """

    owner: str
    inputs: tuple[InputSensitivity, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(name for tensor in self.inputs for name in tensor.layers)

    def settings(self, choice: Choice) -> dict[str, LayerSettings]:
        """Settings of each layer, and of the attention that quantizes for its layers."""
        return {
            self.owner: LayerSettings(choice.weights, choice.activations),
            **{name: LayerSettings(choice.weights) for name in self.layers if name != self.owner},
        }


def units_of(sensitivity: Sensitivity) -> list[Unit]:
    """All measured layers, grouped by the owner of their inputs."""
    inputs: dict[str, list[InputSensitivity]] = {}
    for tensor in sensitivity.inputs.values():
        inputs.setdefault(input_owner(tensor.layers[0]), []).append(tensor)
    return [Unit(owner, tuple(tensors)) for owner, tensors in inputs.items()]


def integer_choices(
    weights: WeightSettings,
    activations: ActivationSettings,
    weight_bits: Sequence[int],
    activation_bits: Sequence[int],
) -> list[Choice]:
    """All bits, and splits of the spare bits, with which a layer is one integer product.

    Exponents of the weights' groups are taken from the spare bits first; the rest is room for
    multiples of the input's channels.

    Args:
        weights: symmetric weights; bits vary, and exponents up to its largest.
        activations: activations whose bits and room vary.
        weight_bits: bits to choose from.
        activation_bits: bits to choose from.
    """
    choices = []
    for bits in weight_bits:
        spare = spare_weight_bits(bits, weights.symmetric) or 0
        for exponent in range(min(spare, weights.max_exponent) + 1):
            group_size = weights.group_size if exponent > 0 else 0
            own = replace(weights, n_bits=bits, max_exponent=exponent, group_size=group_size)
            for of_input in activation_bits:
                room = spare_activation_bits(of_input) + spare - exponent
                choices.append(
                    Choice(own, replace(activations, n_bits=of_input, max_exponent=room))
                )
    return choices


def choose_bits(
    unet: nn.Module,
    sensitivity: Sensitivity,
    uniform: Choice,
    choices: Sequence[Choice],
    noise_left: float = 1.0,
) -> dict[str, LayerSettings]:
    """Settings of all layers with the least noise, at the cost of uniform bits.

    Args:
        unet: a stock UNet, whose weights are rounded.
        sensitivity: sensitivity of its layers.
        uniform: sets the budgets: size, bit operations, and the mean bits of activations, weighted
            by the operations that they take part in.
        choices: to choose from; layers that share the owner of their input get the same.
        noise_left: fraction of the weights' noise that is left after the rounding is learned.

    Returns:
        Settings for ``QuantizationSettings.layers``.

    Raises:
        DGQError: if the cheapest choices exceed a budget.
    """
    units = units_of(sensitivity)
    noise = torch.stack([noise_of(unet, sensitivity, u, choices, noise_left) for u in units])
    costs = torch.stack([costs_of(unet, sensitivity, u, choices) for u in units])
    budgets = torch.stack([costs_of(unet, sensitivity, u, [uniform]) for u in units]).sum((0, 1))
    settings: dict[str, LayerSettings] = {}
    for unit, option in zip(units, allocate(noise, costs, budgets).tolist(), strict=True):
        settings |= unit.settings(choices[option])
    return settings


def noise_of(
    unet: nn.Module,
    sensitivity: Sensitivity,
    unit: Unit,
    choices: Sequence[Choice],
    noise_left: float = 1.0,
) -> Tensor:
    """Noise of the output, relative to its energy, for each choice of a unit, ``[choices]``."""
    of_inputs = {
        settings: sum(t.noise(input_variance(t.ranges, settings, t.padded)) for t in unit.inputs)
        for settings in {choice.activations for choice in choices}
    }
    weights = {choice.weights for choice in choices}
    of_layers = [weight_noise(unet, sensitivity, name, weights) for name in unit.layers]
    of_weights = {settings: sum(noise[settings] for noise in of_layers) for settings in weights}
    noise = [of_inputs[c.activations] + noise_left * of_weights[c.weights] for c in choices]
    return torch.tensor(noise, dtype=torch.float64)


def weight_noise(
    unet: nn.Module, sensitivity: Sensitivity, name: str, choices: Collection[WeightSettings]
) -> dict[WeightSettings, float]:
    """Noise of the output, relative to its energy, with one weight rounded to nearest."""
    weight = weight_of(unet, name).flatten(1)
    n_rows = min(len(weight), MOST_ROWS)
    rows = torch.linspace(0, len(weight) - 1, n_rows).long()
    some = weight[rows.to(weight.device)].float().cpu()
    gain = sensitivity.weights[name].gain[rows]
    # Exponents are searched once for all numbers of bits.
    scaled: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    noise = {}
    for settings in choices:
        groups = settings.group_size, settings.max_exponent
        if groups not in scaled:
            scaled[groups] = without_exponents(some, settings)
        errors = scaled_errors(*scaled[groups], settings)
        noise[settings] = float((gain * errors).sum()) * len(weight) / n_rows
    return noise


def costs_of(
    unet: nn.Module, sensitivity: Sensitivity, unit: Unit, choices: Sequence[Choice]
) -> Tensor:
    """Costs of each choice: bits in the file, and operations weighted by bits, ``[choices, 3]``.

    These are the bits of the weights and their exponents, the multiply-accumulates weighted by the
    bits of both operands (bit operations), and those weighted by the bits of the activations alone.
    """
    n_weights = sum(weight_of(unet, name).numel() for name in unit.layers)
    macs = sum(sensitivity.weights[name].macs for name in unit.layers)
    costs = [
        (
            n_weights * bits_of_weight(c.weights),
            macs * c.weights.n_bits * c.activations.n_bits,
            macs * c.activations.n_bits,
        )
        for c in choices
    ]
    return torch.tensor(costs, dtype=torch.float64)


def weight_of(unet: nn.Module, name: str) -> Tensor:
    """The weight of a layer, without gradients."""
    return cast(Tensor, unet.get_submodule(name).weight).detach()


def bits_of_weight(settings: WeightSettings) -> float:
    """Bits per weight, including its share of an exponent."""
    shared = EXPONENT_BITS / settings.group_size if settings.has_exponents else 0.0
    return settings.n_bits + shared
