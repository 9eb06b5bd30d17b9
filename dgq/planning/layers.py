"""Plan of each layer: its bits, and whether it multiplies integers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from dgq.inference.build import build_
from dgq.inference.layers import FrozenLayer, PackedLayer
from dgq.inference.laying_out import KEPT_READER, obstacle_of, readers_of
from dgq.inspection.layer_costs import LayerCost, weight_count
from dgq.math.exponents import spare_weight_bits
from dgq.settings import QuantizationSettings
from dgq.settings.shared_inputs import SHARED_INPUTS
from dgq.unet.attention import QuantizedAttention

INTEGER = "integer product"
NINE_BITS = "weights minus their zero points may need 9 bits"


@dataclass(frozen=True)
class PlannedLayer:
    """One layer to be quantized.

    Args:
        weights: number of its weights.
        weight_bits: 32 in floating point.
        activation_bits: bits of its input.
        obstacle: why it computes in floating point; None if it multiplies integers.
    """

    weights: int
    weight_bits: int
    activation_bits: int
    obstacle: str | None

    @property
    def path(self) -> str:
        """How it computes, and why."""
        return INTEGER if self.obstacle is None else f"floating point: {self.obstacle}"


def planned_layers(
    unet: nn.Module,
    settings: QuantizationSettings,
    timesteps: Sequence[float],
    latent_size: tuple[int, int],
) -> dict[str, PlannedLayer]:
    """Plan of each layer by name; how it runs on a machine is decided when the model is loaded.

    Args:
        unet: a stock UNet on the meta device; its layers are replaced by empty inference modules.
        settings: what is quantized and how.
        timesteps: the scheduler's values.
        latent_size: of the calibration.
    """
    build_(unet, settings, timesteps, latent_size)
    obstacles = {n: reason for names, reason in obstacles_in(unet) for n in names}
    return {
        name: PlannedLayer(
            weight_count(layer), layer.weight_bits, layer.activation_bits, obstacles[name]
        )
        for name, layer in unet.named_modules()
        if isinstance(layer, FrozenLayer)
    }


def obstacles_in(unet: nn.Module) -> Iterator[tuple[list[str], str | None]]:
    """Layers that read one quantized tensor, and why they cannot multiply integers, or None."""
    for owner_name, owner in unet.named_modules():
        if isinstance(owner, QuantizedAttention):
            for quantizer, leaves in readers_of(owner).items():
                names = [f"{owner_name}.{leaf}" for leaf in leaves]
                yield names, obstacle_of_readers(unet, quantizer, names)
    for name, layer in unet.named_modules():
        if isinstance(layer, FrozenLayer) and name.rpartition(".")[2] not in SHARED_INPUTS:
            yield [name], obstacle_of_readers(unet, layer.input_quantizer, [name])


def obstacle_of_readers(
    unet: nn.Module, quantizer: nn.Module | None, names: list[str]
) -> str | None:
    """As ``fold_layers_`` decides, except for what depends on tensors."""
    layers = [unet.get_submodule(name) for name in names]
    frozen = [layer for layer in layers if isinstance(layer, FrozenLayer)]
    if len(frozen) < len(layers):
        return KEPT_READER
    obstacle = obstacle_of(quantizer, frozen)
    if obstacle is None and any(needs_nine_bits(layer) for layer in frozen):
        return NINE_BITS
    return obstacle


def needs_nine_bits(layer: FrozenLayer) -> bool:
    """Whether weights minus their zero points are too wide for a signed byte."""
    if not isinstance(layer, PackedLayer):
        return False
    return spare_weight_bits(layer.settings.n_bits, layer.settings.symmetric) is None


def shares_of_macs(
    layers: Mapping[str, PlannedLayer], costs: Mapping[str, LayerCost]
) -> dict[str, float]:
    """Which part of the multiply-accumulates of all layers each path computes, largest first."""
    macs: Counter[str] = Counter()
    for name, cost in costs.items():
        macs[layers[name].path if name in layers else "floating point: kept"] += cost.macs
    total = sum(macs.values()) or 1
    return {path: n / total for path, n in macs.most_common()}
