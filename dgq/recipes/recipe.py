"""The interface of a recipe: which quantizers a UNet gets, what is reconstructed, and how."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import nn

from dgq.settings import (
    LearningSettings,
    NetworkSettings,
    QuantizationSettings,
    ScoreSettings,
    check_types,
)
from dgq.targets import Target, find_blocks
from dgq.unet.call_rows import Call

KEPT = ("conv_in", "conv_out")
"""Layers that every recipe leaves in full precision unless told otherwise."""


class Recipe(ABC):
    """Everything that a calibration does to a UNet, apart from the calibration data.

    Recipes are frozen dataclasses, one per file of this package, and are found by their name:
    ``model.recipe: {class_path: DGQ, init_args: {activation_bits: 6}}`` in a configuration.
    """

    learning: LearningSettings
    network: NetworkSettings | None = None
    keeps_better: ClassVar[bool] = False
    """Whether weights return to nearest rounding if learning has made a target worse."""

    def __post_init__(self) -> None:
        check_types(self)
        self.choose_defaults_()
        assert self.quantization  # refuses impossible settings

    def choose_defaults_(self) -> None:  # noqa: B027
        """Set options whose defaults depend on others, if there are any."""

    def choose_(self, name: str, value: object) -> None:
        """Set an option whose default depends on others, during construction."""
        object.__setattr__(self, name, value)  # frozen from here on

    @property
    @abstractmethod
    def quantization(self) -> QuantizationSettings:
        """The quantization settings, as far as they do not depend on the UNet."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name for reports."""

    def settings(
        self, unet: nn.Module, calls: Sequence[Call] | None = None, progress: bool = True
    ) -> QuantizationSettings:
        """The quantization settings for this UNet.

        Args:
            unet: a stock UNet.
            calls: its recorded calls, for recipes that measure before they choose.
            progress: show a bar while measuring.
        """
        return self.quantization

    @property
    def measures(self) -> bool:
        """Whether ``settings`` takes measurements before it chooses bits per layer."""
        return False

    @property
    def visits_network(self) -> bool:
        """Whether the UNet as a whole is the last target, after ``targets``."""
        return self.network is not None and self.learning.total_iterations > 0

    def targets(self, unet: nn.Module) -> Mapping[str, Target]:
        """The targets of reconstruction by name, in any order.

        Args:
            unet: a stock or quantized UNet.
        """
        return find_blocks(unet, self.quantization.keep)


def of_bits(prefix: str, weight_bits: int, activation_bits: int) -> str:
    """The name of a recipe with these bits; 16 stands for floating point."""
    return f"{prefix}w{weight_bits}a{activation_bits}"


def affine_scores(score_bits: int | None, activation_bits: int) -> ScoreSettings:
    """Affine scores without a start token, with as many bits as the activations by default."""
    bits = activation_bits if score_bits is None else score_bits
    return ScoreSettings(bits, "affine", "affine", keep_start_token=False)
