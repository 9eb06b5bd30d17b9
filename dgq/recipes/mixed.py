"""What recipes share that give each layer bits of its own."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from dgq.calibration.measured_rows import measured_rows
from dgq.calibration.runtime import Call
from dgq.mixed_precision.mixed_precision import Choice, choose_bits
from dgq.mixed_precision.sensitivity import measure_sensitivity
from dgq.recipes.recipe import Recipe
from dgq.settings import QuantizationSettings
from dgq.unet.quantize import layers_to_quantize


class MixedRecipe(Recipe):
    """Shares bits out where they lower the noise of the output most, at the cost of uniform ones.

    Subclasses are dataclasses with these fields.
    """

    weight_bits: int
    activation_bits: int
    mixed: bool
    keep: tuple[str, ...]

    @property
    @abstractmethod
    def uniform(self) -> Choice:
        """What would cost as much, alike for all layers."""

    @property
    @abstractmethod
    def choices(self) -> Sequence[Choice]:
        """What a layer may get."""

    @property
    def noise_left(self) -> float:
        """Part of the weights' noise with nearest rounding that learning leaves."""
        return 1.0

    @property
    def measures(self) -> bool:
        """Whether bits are mixed: where weights and activations are both quantized."""
        return self.mixed and 16 not in (self.weight_bits, self.activation_bits)

    def settings(
        self, unet: nn.Module, calls: Sequence[Call] | None = None
    ) -> QuantizationSettings:
        """Bits for each layer, from what calls of the UNet show; alike for all without calls."""
        if calls is None or not self.measures:
            return self.quantization
        names = layers_to_quantize(unet, self.keep)
        sensitivity = measure_sensitivity(unet, names, measured_rows(calls))
        layers = choose_bits(unet, sensitivity, self.uniform, self.choices, self.noise_left)
        return replace(self.quantization, layers=layers)
