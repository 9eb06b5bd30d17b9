"""Everything that determines the arithmetic of a quantized UNet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from dgq.errors import SettingsError
from dgq.settings.activations import ActivationSettings
from dgq.settings.checks import check_choice
from dgq.settings.integer_product import check_product, fitting
from dgq.settings.scores import ScoreSettings
from dgq.settings.shared_inputs import input_owner
from dgq.settings.types import check_types
from dgq.settings.weights import WeightSettings

SkipReader = Literal["conv1", "conv_shortcut"]


@dataclass(frozen=True)
class LayerSettings:
    """Settings of a single layer that differ from those of the others.

    Args:
        weights: settings of its weight; by default as in the other layers.
        activations: settings of its input; by default as in the other layers.
    """

    weights: WeightSettings | None = None
    activations: ActivationSettings | None = None

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class QuantizationSettings:
    """Everything that determines the arithmetic of a quantized UNet.

    Args:
        weights: how weights are quantized.
        activations: how layer inputs and q, k, v are quantized.
        scores: how attention scores are quantized.
        keep: patterns (as in a shell) of the names of layers that stay in full precision.
        layers: settings of single layers, by name. The input of ``to_q``, ``to_k`` and ``to_v`` is
            quantized by the attention that owns them, so it is set under the attention's name.
        split_skips: layers of resnets, ``conv1`` and ``conv_shortcut``, that separately quantize
            the part of their input that comes over a skip, and the corresponding part of their
            weight.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    activations: ActivationSettings = field(default_factory=ActivationSettings)
    scores: ScoreSettings = field(default_factory=ScoreSettings)
    keep: tuple[str, ...] = ("conv_in", "conv_out")
    layers: Mapping[str, LayerSettings] = field(default_factory=dict)
    split_skips: tuple[SkipReader, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        for reader in self.split_skips:
            check_choice("split_skips", reader, get_args(SkipReader))
        check_product(self.weights, self.activations)
        for name in self.layers:
            try:
                check_product(self.weights_of(name), self.activations_of(name))
            except SettingsError as error:
                raise SettingsError(f"{name}: {error}") from error

    @property
    def follows_steps(self) -> bool:
        """Whether any scale depends on the sampler step, including those of scores."""
        own = [layer.activations for layer in self.layers.values() if layer.activations]
        scores = self.scores.n_bits < 16 and self.activations.per_step
        return scores or any(part.follows_steps for part in (self.activations, *own))

    @property
    def remembers(self) -> bool:
        """Whether layers keep state from one call to the next."""
        own = [layer.activations for layer in self.layers.values() if layer.activations]
        parts = (self.activations, *own)
        return any(part.grouping == "residual" and part.n_bits < 16 for part in parts)

    def with_activations(
        self, activations: ActivationSettings, scores: ScoreSettings
    ) -> "QuantizationSettings":
        """These weights with other activations, alike in all layers as far as weights allow."""
        weights = {name: own.weights for name, own in self.layers.items() if own.weights}
        fitted: dict[str, ActivationSettings] = {}
        for name, own in weights.items():
            owner = input_owner(name)
            fitted[owner] = fitting(fitted.get(owner, activations), own)
        layers = {n: LayerSettings(weights.get(n), fitted.get(n)) for n in weights | fitted}
        return QuantizationSettings(
            self.weights, activations, scores, self.keep, layers, self.split_skips
        )

    def weights_of(self, name: str) -> WeightSettings:
        """How the weight of one layer is quantized."""
        own = self.layers.get(name)
        return self.weights if own is None or own.weights is None else own.weights

    def activations_of(self, name: str) -> ActivationSettings:
        """How the input of one layer is quantized, or what an attention's layers read."""
        own = self.layers.get(input_owner(name))
        return self.activations if own is None or own.activations is None else own.activations
