"""The composition of a quantized UNet's layers: bits, groups, exponents, multiples."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

from torch import Tensor, nn

from dgq.inference.channel_input import ChannelInput
from dgq.inference.input_quantizers import GroupedInput, InputQuantizer
from dgq.inference.kernel_layer import KernelLayer
from dgq.inference.layers import FrozenLayer, PackedLayer
from dgq.inference.scores import AffineScores

Quantizer = TypeVar("Quantizer", bound=InputQuantizer)


@dataclass(frozen=True)
class Kind:
    """Layers with the same bits.

    Args:
        weight_bits: 32 in floating point.
        activation_bits: bits of their inputs; 32 in floating point.
        layers: number of layers.
        weights: number of all their weights, without biases.
    """

    weight_bits: int
    activation_bits: int
    layers: int
    weights: int


def layer_kinds(unet: nn.Module) -> list[Kind]:
    """Quantized layers by their bits, most weights first; works without tensors."""
    layers: Counter[tuple[int, int]] = Counter()
    weights: Counter[tuple[int, int]] = Counter()
    for module in unet.modules():
        if isinstance(module, FrozenLayer | KernelLayer):
            bits = module.weight_bits, module.activation_bits
            layers[bits] += 1
            weights[bits] += prod(module.geometry.weight_shape)
    return [Kind(*bits, layers[bits], n) for bits, n in weights.most_common()]


def kept_layers(unet: nn.Module) -> dict[str, int]:
    """Linear and convolution layers in full precision, by name, with the number of weights."""
    return {
        name: module.weight.numel()
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def weight_exponents(unet: nn.Module) -> dict[str, int]:
    """How many groups of weights have each exponent."""
    found = (m.exponent for m in unet.modules() if isinstance(m, PackedLayer))
    return counted(exponent for exponent in found if exponent is not None)


def activation_multiples(unet: nn.Module) -> dict[str, int]:
    """How many channels have each multiple of the finest scale of their tensor."""
    return counted(quantizer.multiple for quantizer in inputs(unet, ChannelInput))


def activation_groups(unet: nn.Module) -> dict[str, Any]:
    """How many activations have each number of groups, and along which axis."""
    axes: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for quantizer in inputs(unet, GroupedInput):
        axes["pixels" if quantizer.on_pixels else "channels"] += 1
        sizes[str(quantizer.scale.shape[1])] += 1
    return {"along": dict(axes), "groups": dict(sizes)} if axes else {}


def activations(unet: nn.Module) -> dict[str, int]:
    """Numbers of quantized activations by their bits, without attention scores."""
    bits = Counter(str(q.n_bits) for q in inputs(unet, InputQuantizer))
    return dict(sorted(bits.items()))


def inputs(unet: nn.Module, kind: type[Quantizer]) -> Iterator[Quantizer]:
    """Quantizers of activations of a kind."""
    for module in unet.modules():
        if isinstance(module, kind) and not isinstance(module, AffineScores):
            yield module


def counted(tensors: Iterator[Tensor]) -> dict[str, int]:
    """How often each whole number occurs, smallest first."""
    total: Counter[int] = Counter()
    for tensor in tensors:
        values, counts = tensor.unique(return_counts=True)
        total.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return {str(value): total[value] for value in sorted(total)}
