"""Put layers that engines execute in int8 into a quantized UNet."""

from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.export.layers import CodeLayer, CodesOf, PlainLayer, PlainQuantizer
from dgq.export.operators import PLAIN, Operators
from dgq.export.step_rows import StepRows, TracedCalls
from dgq.inference.channel_input import ChannelInput
from dgq.inference.input_quantizers import InputQuantizer
from dgq.inference.integer_layer import fold
from dgq.inference.layers import FrozenLayer, PackedLayer
from dgq.inference.laying_out import (
    FLOAT_WEIGHTS,
    KEPT_READER,
    TOO_WIDE,
    UNQUANTIZED,
    readers_of,
)
from dgq.inference.live_input import LiveInput
from dgq.settings.shared_inputs import SHARED_INPUTS
from dgq.unet.attention import QuantizedAttention

INSIDE = ("query_quantizer", "key_quantizer", "value_quantizer", "score_quantizer")
"""Quantizers of an attention, whose products stay in floating point in other engines."""


@dataclass(frozen=True)
class Converted:
    """How a UNet's layers were converted.

    Args:
        int8_layers: number of layers that multiply int8 weights with codes.
        float_layers: number of layers in floating point, by reason.
    """

    int8_layers: int
    float_layers: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{self.int8_layers} layers in int8"]
        parts += [f"{n} in floating point ({reason})" for reason, n in self.float_layers.items()]
        return ", ".join(parts)


def convert_(unet: nn.Module, operators: Operators = PLAIN) -> Converted:
    """Replace the layers of a quantized UNet, loaded with ``execution="float"``, in place.

    Args:
        unet: a UNet with packed layers.
        operators: operators in the form that the engine's converter reads.

    Raises:
        DGQError: if no layer can be an integer product, or attention itself is quantized.
    """
    attentions = {n: m for n, m in unet.named_modules() if isinstance(m, QuantizedAttention)}
    check_attentions(attentions)
    rows, reasons = StepRows(), Counter[str]()
    readers = Readers(unet, rows, operators)
    unet.add_module("step_rows", rows)
    for name, owner in attentions.items():
        for quantizer, leaves in readers_of(owner).items():
            names = [f"{name}.{leaf}" for leaf in leaves]
            reasons.update(readers.convert_(quantizer, names, owner))
    for name in [n for n, m in unet.named_modules() if isinstance(m, FrozenLayer)]:
        if name.rpartition(".")[2] not in SHARED_INPUTS:
            layer = unet.get_submodule(name)
            assert isinstance(layer, FrozenLayer)
            reasons.update(readers.convert_(layer.input_quantizer, [name]))
    rows.close_()
    follow_calls_(unet, rows)
    n_int8 = sum(isinstance(module, CodeLayer) for module in unet.modules())
    if n_int8 == 0:
        raise DGQError(
            f"no layer of this model can be an int8 product of another engine "
            f"({', '.join(reasons)}): export one of the recipes that run in integers, such as w4a8"
        )
    return Converted(n_int8, dict(reasons))


def check_attentions(attentions: dict[str, QuantizedAttention]) -> None:
    """Raise DGQError for attentions that quantize more than the input of their layers."""
    for name, owner in attentions.items():
        for leaf in INSIDE:
            quantizer = getattr(owner, leaf)
            if quantizer is not None and not isinstance(quantizer, nn.Identity):
                raise DGQError(
                    f"{name} quantizes its {leaf.partition('_')[0]}, which no other engine does: "
                    "export a model with activations.qkv false and scores of 16 bits, such as w4a8"
                )


def follow_calls_(unet: nn.Module, rows: StepRows) -> None:
    """Make the whole UNet read the step in a traceable form."""
    calls = TracedCalls(unet.calls, rows)  # type: ignore[arg-type]
    for module in unet.modules():
        if hasattr(module, "calls"):
            module.calls = calls  # type: ignore[assignment]


@dataclass(frozen=True)
class Readers:
    """Replaces the layers that read one quantized tensor, all or none of them.

    Args:
        unet: UNet that holds the layers.
        rows: table that takes the vectors that depend on the step.
        operators: operators of the engine.
    """

    unet: nn.Module
    rows: StepRows
    operators: Operators

    def convert_(
        self, quantizer: nn.Module | None, names: list[str], owner: nn.Module | None = None
    ) -> Counter[str]:
        """Replace layers; returns how many stay in floating point, by reason.

        Args:
            quantizer: quantizer of the tensor.
            names: names of the layers.
            owner: attention that quantizes for several layers, if one does.
        """
        layers = {name: self.unet.get_submodule(name) for name in names}
        frozen = {name: m for name, m in layers.items() if isinstance(m, FrozenLayer)}
        obstacle = obstacle_of(quantizer, list(layers.values()))
        folded: dict[str, Tensor | None] = {}
        if obstacle is None:
            folded = folded_weights(quantizer, frozen)
            if any(weight is None for weight in folded.values()):
                obstacle = TOO_WIDE
        if obstacle is None:
            self._to_int8_(quantizer, frozen, folded, owner)
            return Counter()
        for name, layer in frozen.items():
            self.unet.set_submodule(name, PlainLayer(layer))
        if owner is not None and isinstance(quantizer, InputQuantizer):
            replace_(owner, quantizer, PlainQuantizer(quantizer))
        return Counter({obstacle: len(frozen)})

    def _to_int8_(
        self,
        quantizer: nn.Module | None,
        frozen: dict[str, FrozenLayer],
        folded: dict[str, Tensor | None],
        owner: nn.Module | None,
    ) -> None:
        assert isinstance(quantizer, ChannelInput)
        channels = next(iter(frozen.values())).in_channels
        codes = CodesOf(quantizer, channels, self.rows, self.operators)
        for name, layer in frozen.items():
            weight = folded.pop(name)
            assert isinstance(layer, PackedLayer)
            assert weight is not None
            made = CodeLayer(layer, quantizer, codes, weight, self.rows)
            self.unet.set_submodule(name, made)
        if owner is not None:
            replace_(owner, quantizer, codes)


def folded_weights(
    quantizer: nn.Module | None, layers: dict[str, FrozenLayer]
) -> dict[str, Tensor | None]:
    """The int8 weight ``[out, n]`` of each layer; None if it does not fit."""
    assert isinstance(quantizer, ChannelInput)
    packed = {name: layer for name, layer in layers.items() if isinstance(layer, PackedLayer)}
    return {n: fold(m, quantizer.factors(m.in_channels)[1]) for n, m in packed.items()}


def obstacle_of(quantizer: nn.Module | None, layers: list[nn.Module]) -> str | None:
    """Why layers that read one quantized tensor cannot multiply int8 weights, or None."""
    if not all(isinstance(layer, FrozenLayer) for layer in layers):
        return KEPT_READER
    if not all(isinstance(layer, PackedLayer) for layer in layers):
        return FLOAT_WEIGHTS
    if quantizer is None or isinstance(quantizer, nn.Identity):
        return UNQUANTIZED
    if isinstance(quantizer, LiveInput):
        return "live ranges, which engines' int8 layers do not compute"
    if not isinstance(quantizer, ChannelInput):
        return "k-means groups need a product each"
    return None


def replace_(owner: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a direct child module."""
    name = next(name for name, child in owner.named_children() if child is old)
    owner.register_module(name, new)
