"""Base of recipes that choose bits for each layer."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from dgq.mixed_precision.measured_rows import measured_rows
from dgq.mixed_precision.mixed_precision import Choice, choose_bits
from dgq.mixed_precision.sensitivity import measure_sensitivity
from dgq.recipes.recipe import Recipe
from dgq.settings import QuantizationSettings
from dgq.unet.call_rows import Call
from dgq.unet.quantize import layers_to_quantize


class MixedRecipe(Recipe):
    """Gives bits where they reduce the output's noise most, at the cost of uniform bits.

    Subclasses are dataclasses with these fields.
    """

    weight_bits: int
    activation_bits: int
    mixed: bool
    keep: tuple[str, ...]

    @property
    @abstractmethod
    def uniform(self) -> Choice:
        """The uniform choice that sets the cost."""

    @property
    @abstractmethod
    def choices(self) -> Sequence[Choice]:
        """The choices for a layer."""

    @property
    def noise_left(self) -> float:
        """Fraction of the weights' nearest-rounding noise that remains after learning."""
        return 1.0

    @property
    def measures(self) -> bool:
        """Whether bits are mixed: only if weights and activations are both quantized."""
        return self.mixed and 16 not in (self.weight_bits, self.activation_bits)

    def settings(
        self, unet: nn.Module, calls: Sequence[Call] | None = None, progress: bool = True
    ) -> QuantizationSettings:
        """Bits for each layer, measured on calls of the UNet; uniform bits without calls."""
        if calls is None or not self.measures:
            return self.quantization
        names = layers_to_quantize(unet, self.keep)
        keep_start = self.uniform.activations.keep_start_token
        sensitivity = measure_sensitivity(unet, names, measured_rows(calls), progress, keep_start)
        layers = choose_bits(unet, sensitivity, self.uniform, self.choices, self.noise_left)
        return replace(self.quantization, layers=layers)
