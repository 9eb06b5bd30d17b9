"""Checks of weights and activations whose codes are multiplied as 8-bit integers."""

from dataclasses import replace

from dgq.errors import SettingsError
from dgq.math.exponents import (
    OPERAND_BITS,
    check_budget,
    spare_activation_bits,
    spare_weight_bits,
)
from dgq.settings.activations import ActivationSettings
from dgq.settings.weights import WeightSettings


def fitting(activations: ActivationSettings, weights: WeightSettings) -> ActivationSettings:
    """Activations with exponents or multiples limited to the spare bits that the weights leave."""
    if activations.grouping == "kmeans" or 16 in (weights.n_bits, activations.n_bits):
        return activations
    if weights.absorbs:
        return activations
    spare = (spare_weight_bits(weights.n_bits, weights.symmetric) or 0) - weights.max_exponent
    room = spare_activation_bits(activations.n_bits) + max(0, spare)
    return replace(activations, max_exponent=min(activations.max_exponent, room))


def check_product(weights: WeightSettings, activations: ActivationSettings) -> None:
    """Raise SettingsError if operands to be multiplied as integers have too many bits."""
    if weights.absorbs:
        check_absorbed(activations)
    elif activations.grouping != "kmeans" and 16 not in (weights.n_bits, activations.n_bits):
        check_budget(
            weights.n_bits,
            weights.symmetric,
            weights.max_exponent,
            activations.n_bits,
            activations.max_exponent,
        )


def check_absorbed(activations: ActivationSettings) -> None:
    """Raise SettingsError unless the input has multiples that weights can absorb."""
    if activations.n_bits == 16 or activations.grouping != "multiples":
        raise SettingsError(
            "weights.absorbs needs multiples to absorb: set activations.grouping to multiples, and "
            "activations.n_bits to 8 or less"
        )
    if activations.max_exponent > OPERAND_BITS:
        raise SettingsError(
            f"activations.max_exponent {activations.max_exponent} is beyond {OPERAND_BITS}, the "
            "bits of the weights that absorb the multiples"
        )


def check_alike(weights: WeightSettings, of_owner: WeightSettings) -> None:
    """Raise SettingsError if layers that read one tensor differ in what they absorb."""
    if weights.absorbs != of_owner.absorbs:
        raise SettingsError("all layers that read one tensor absorb its multiples, or none does")
