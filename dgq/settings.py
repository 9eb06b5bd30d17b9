"""What to quantize and how: typed settings, validated when they are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from dgq.errors import SettingsError
from dgq.math.exponents import (
    OPERAND_BITS,
    check_budget,
    spare_activation_bits,
    spare_weight_bits,
)
from dgq.unet.shared_inputs import input_owner

FLOAT_BITS = 32
"""Bits that a tensor kept in floating point counts with."""

RangeMethod = Literal["minmax", "mse"]
Grouping = Literal["kmeans", "exponents", "multiples", "live", "residual"]
LIVE: tuple[Grouping, ...] = ("live", "residual")
"""Scales are those of each sample."""

ScoreMethod = Literal["log", "affine"]
Maximum = Literal["live", "calibrated"]
SkipReader = Literal["conv1", "conv_shortcut"]
Decay = Literal["cosine", "constant"]
Place = Literal["device", "host", "disk"]
WaitingType = Literal["same", "bfloat16", "float16"]


def check_bits(name: str, n_bits: int) -> None:
    """Raise SettingsError unless ``n_bits`` is 2 to 8, or 16 (kept in floating point)."""
    if isinstance(n_bits, bool) or not isinstance(n_bits, int):
        raise SettingsError(f"{name} must be a whole number of bits, got {n_bits!r}")
    if n_bits not in (*range(2, 9), 16):
        raise SettingsError(f"{name} must be 2 to 8, or 16 for floating point, got {n_bits}")


def operand_bits(n_bits: int) -> int:
    """Bits that an operand counts with: FLOAT_BITS where its setting is 16, floating point."""
    return FLOAT_BITS if n_bits == 16 else n_bits


def check_positive(name: str, value: int) -> None:
    """Raise SettingsError unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingsError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_whole(name: str, value: int) -> None:
    """Raise SettingsError unless ``value`` is a whole number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SettingsError(f"{name} must be a whole number of at least 0, got {value!r}")


def check_not_negative(name: str, value: float) -> None:
    """Raise SettingsError unless ``value`` is a number of at least 0."""
    if not value >= 0:
        raise SettingsError(f"{name} must be at least 0, got {value!r}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise SettingsError unless ``value`` is one of the choices."""
    if value not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True)
class WeightSettings:
    """Affine quantization of the weights, per output channel or in groups with exponents.

    Args:
        n_bits: 2 to 8, or 16 to keep the weights in floating point.
        range_method: ``minmax``, or ``mse`` for the best of 80 shrunk ranges.
        symmetric: codes around a fixed zero point, ``2^(n_bits - 1)``, which leave one more bit to
            exponents; otherwise each output channel has a zero point of its own.
        group_size: inputs (along ``in, kh, kw``) that share an exponent; 0 for none.
        max_exponent: scales of groups are those of their output channel times ``2^-e``, with ``e``
            from 0 to this.
        absorbs: multiply the weights by the multiples of their input's channels before they are
            quantized, so that these need none of the spare bits.
    """

    n_bits: int = 4
    range_method: RangeMethod = "mse"
    symmetric: bool = False
    group_size: int = 0
    max_exponent: int = 0
    absorbs: bool = False

    def __post_init__(self) -> None:
        check_bits("weights.n_bits", self.n_bits)
        check_choice("weights.range_method", self.range_method, get_args(RangeMethod))
        check_whole("weights.group_size", self.group_size)
        check_whole("weights.max_exponent", self.max_exponent)
        if self.max_exponent > 0 and self.group_size == 0:
            raise SettingsError("weights.max_exponent needs groups: set weights.group_size, to 64")
        if self.absorbs and (self.group_size > 0 or not self.symmetric):
            raise SettingsError(
                "weights.absorbs needs symmetric weights without groups: set weights.symmetric to "
                "true and weights.group_size to 0"
            )

    @property
    def has_exponents(self) -> bool:
        """Whether groups of inputs have scales of their own."""
        return self.group_size > 0 and self.max_exponent > 0


@dataclass(frozen=True)
class ActivationSettings:
    """Affine quantization of layer inputs and of attention's q, k and v (paper, section 4.1).

    Args:
        n_bits: 2 to 8, or 16 to keep activations in floating point.
        grouping: ``kmeans`` for groups with free scales along the axis where the outliers lie, as
            published; ``exponents`` for channels whose scales differ by powers of two, so that a
            layer is one integer product; ``multiples`` for whole multiples of one scale, which is
            finer below 8 bits; ``live`` for the same with the scale and the zero points of each
            sample's own range, which knows no steps; ``residual`` for the same of the difference to
            the call before, which layers add to their output of that call.
        n_groups: groups of ``kmeans``; 1 is per-tensor.
        max_exponent: scales of ``exponents`` are a step's times ``2^-k``, with ``k`` from 0 to this
            for each channel; those of whole multiples have the same room,
            ``2^max_exponent``. 0 leaves each channel a zero point of its own.
        per_step: one set of ranges for each sampler step; otherwise one for all of them.
            ``live`` and ``residual`` choose their multiples by them.
        qkv: quantize q, k and v inside attention too; otherwise they stay in floating point.
        keep_start_token: the text's ``<start>`` token stays in full precision when ``to_k`` and
            ``to_v`` read it.
    """

    n_bits: int = 8
    grouping: Grouping = "kmeans"
    n_groups: int = 8
    max_exponent: int = 2
    per_step: bool = True
    qkv: bool = True
    keep_start_token: bool = False

    def __post_init__(self) -> None:
        check_bits("activations.n_bits", self.n_bits)
        check_choice("activations.grouping", self.grouping, get_args(Grouping))
        check_positive("activations.n_groups", self.n_groups)
        check_whole("activations.max_exponent", self.max_exponent)

    @property
    def follows_steps(self) -> bool:
        """Whether scales depend on the sampler step."""
        return self.n_bits < 16 and self.per_step and self.grouping not in LIVE


@dataclass(frozen=True)
class ScoreSettings:
    """Quantization of the softmax output of attention (paper, section 4.2).

    Args:
        n_bits: 2 to 8, or 16 to keep the scores in floating point.
        cross_attention: ``log`` (powers of two under the live maximum) or ``affine``.
        self_attention: the same choice for self-attention.
        keep_start_token: keep the ``<start>`` token's key and scores in full precision.
        maximum: that powers of two are taken of: each sample's own (``live``), or the largest of
            the calibration samples at each step (``calibrated``).
    """

    n_bits: int = 8
    cross_attention: ScoreMethod = "log"
    self_attention: ScoreMethod = "affine"
    keep_start_token: bool = True
    maximum: Maximum = "live"

    def __post_init__(self) -> None:
        check_bits("scores.n_bits", self.n_bits)
        check_choice("scores.maximum", self.maximum, get_args(Maximum))
        check_choice("scores.cross_attention", self.cross_attention, get_args(ScoreMethod))
        check_choice("scores.self_attention", self.self_attention, get_args(ScoreMethod))


@dataclass(frozen=True)
class LayerSettings:
    """What a single layer gets where it differs from the others.

    Args:
        weights: of the layer; as in the other layers by default.
        activations: of its input; as for the other layers by default.
    """

    weights: WeightSettings | None = None
    activations: ActivationSettings | None = None


@dataclass(frozen=True)
class QuantizationSettings:
    """Everything that determines the arithmetic of a quantized UNet.

    Args:
        weights: how weights are quantized.
        activations: how layer inputs and q, k, v are quantized.
        scores: how attention scores are quantized.
        keep: patterns (as in a shell) of the names of layers that stay in full precision.
        layers: what single layers have otherwise, by name. What ``to_q``, ``to_k`` and ``to_v``
            read is quantized as for the attention that owns them, whose name stands here too.
        split_skips: layers of resnets, ``conv1`` and ``conv_shortcut``, that quantize the part of
            their input that comes over a skip apart, and the part of their weight that meets it.
    """

    weights: WeightSettings = field(default_factory=WeightSettings)
    activations: ActivationSettings = field(default_factory=ActivationSettings)
    scores: ScoreSettings = field(default_factory=ScoreSettings)
    keep: tuple[str, ...] = ("conv_in", "conv_out")
    layers: Mapping[str, LayerSettings] = field(default_factory=dict)
    split_skips: tuple[SkipReader, ...] = ()

    def __post_init__(self) -> None:
        for reader in self.split_skips:
            check_choice("split_skips", reader, get_args(SkipReader))
        check_product(self.weights, self.activations)
        for name in self.layers:
            try:
                check_product(self.weights_of(name), self.activations_of(name))
                check_alike(self.weights_of(name), self.weights_of(input_owner(name)))
            except SettingsError as error:
                raise SettingsError(f"{name}: {error}") from error

    @property
    def follows_steps(self) -> bool:
        """Whether any scale depends on the sampler step, those of scores included."""
        own = [layer.activations for layer in self.layers.values() if layer.activations]
        scores = self.scores.n_bits < 16 and self.activations.per_step
        return scores or any(part.follows_steps for part in (self.activations, *own))

    @property
    def remembers(self) -> bool:
        """Whether layers keep something from one call to the next."""
        own = [layer.activations for layer in self.layers.values() if layer.activations]
        parts = (self.activations, *own)
        return any(part.grouping == "residual" and part.n_bits < 16 for part in parts)

    def with_activations(
        self, activations: ActivationSettings, scores: ScoreSettings
    ) -> "QuantizationSettings":
        """The same weights with other activations, alike for all layers as far as weights allow."""
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


def fitting(activations: ActivationSettings, weights: WeightSettings) -> ActivationSettings:
    """Activations with no more room for exponents or multiples than weights leave."""
    if activations.grouping == "kmeans" or 16 in (weights.n_bits, activations.n_bits):
        return activations
    if weights.absorbs:
        return activations
    spare = (spare_weight_bits(weights.n_bits, weights.symmetric) or 0) - weights.max_exponent
    room = spare_activation_bits(activations.n_bits) + max(0, spare)
    return replace(activations, max_exponent=min(activations.max_exponent, room))


def check_product(weights: WeightSettings, activations: ActivationSettings) -> None:
    """Raise SettingsError where operands are to multiply as integers and their bits do not fit."""
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
    """Raise SettingsError unless an input has multiples that weights can absorb."""
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
    """Raise SettingsError where layers that read one tensor differ in what they absorb."""
    if weights.absorbs != of_owner.absorbs:
        raise SettingsError("all layers that read one tensor absorb its multiples, or none does")


@dataclass(frozen=True)
class LearningSettings:
    """Learning of the weight rounding, target by target (AdaRound, BRECQ; see docs/method.md).

    Args:
        iterations: steps that learn rounding, scales and biases together; 0 rounds to nearest.
        polish_iterations: steps after that with the rounding fixed, on scales, biases and the
            ranges of the activations, with everything quantized.
        rounding_lr: Adam's learning rate for the rounding.
        scale_lr: the same for the logarithm of the scales and for the biases.
        polish_lr: the same during the polish.
        activation_lr: the same for the ranges of the activations, relative to their width; 0 keeps
            the ranges that were observed, and activations unquantized while weights are learned.
        decay: ``cosine`` lets each rate fall to 0, ``constant`` keeps it.
        penalty: weight of the term that drives each rounding to 0 or 1.
        warmup: fraction of the iterations without that term.
    """

    iterations: int = 200
    polish_iterations: int = 60
    rounding_lr: float = 0.4
    scale_lr: float = 0.02
    polish_lr: float = 0.005
    activation_lr: float = 0.0
    decay: Decay = "cosine"
    penalty: float = 0.05
    warmup: float = 0.0

    def __post_init__(self) -> None:
        names = (
            "iterations",
            "polish_iterations",
            "rounding_lr",
            "scale_lr",
            "polish_lr",
            "activation_lr",
            "penalty",
        )
        for name in names:
            check_not_negative(f"learning.{name}", getattr(self, name))
        check_choice("learning.decay", self.decay, get_args(Decay))
        if not 0 <= self.warmup < 1:
            raise SettingsError(f"learning.warmup must be in [0, 1), got {self.warmup}")

    @property
    def total_iterations(self) -> int:
        """Optimizer steps for each target."""
        return self.iterations + self.polish_iterations

    @property
    def learns_ranges(self) -> bool:
        """Whether the polish learns ranges of activations."""
        return self.polish_iterations > 0 and self.activation_lr > 0


@dataclass(frozen=True)
class NetworkSettings:
    """Learning of the UNet as a whole, the last target: everything quantized, all layers at once.

    It has as many steps as every other target.

    Args:
        lr: Adam's learning rate for the logarithm of the weights' scales, and for biases.
        activation_lr: the same for the ranges of activations, relative to their width.
        rounding_lr: the same for the rounding of the weights, in codes; 0 leaves it as it is, which
            saves 16 bytes of memory for each weight.
    """

    lr: float = 0.003
    activation_lr: float = 0.01
    rounding_lr: float = 0.012

    def __post_init__(self) -> None:
        for name in ("lr", "activation_lr", "rounding_lr"):
            check_not_negative(f"network.{name}", getattr(self, name))


@dataclass(frozen=True)
class WaitingSettings:
    """Where calibration samples wait for their turn at a target.

    SD 1.4 keeps up to 28 MB for each row and stream in float32, SDXL at 512 px up to 44 MB.

    Args:
        place: ``device`` (fastest), ``host`` memory for an accelerator with too little of its own,
            or ``disk`` for a host with too little memory.
        dtype: ``same`` keeps activations as they are; ``bfloat16`` or ``float16`` halve those in
            float32.
        folder: for the files of ``disk``; in the run's folder by default.
    """

    place: Place = "device"
    dtype: WaitingType = "same"
    folder: Path | None = None

    def __post_init__(self) -> None:
        check_choice("waiting.place", self.place, get_args(Place))
        check_choice("waiting.dtype", self.dtype, get_args(WaitingType))
