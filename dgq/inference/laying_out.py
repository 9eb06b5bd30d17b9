"""Which layers of a UNet get a weight for its device's kernels, and why others do not."""

from collections import Counter

import torch
from torch import nn

from dgq.inference.channel_input import ChannelInput
from dgq.inference.feed_forward import hand_over_codes_, hand_over_floats_
from dgq.inference.group_norm import norm_by_pixels_
from dgq.inference.integer_layer import IntegerLayer, fold
from dgq.inference.joint_product import join_
from dgq.inference.kernel_layer import KernelLayer
from dgq.inference.layers import FrozenLayer, PackedLayer
from dgq.inference.live_input import LiveInput
from dgq.inference.live_layer import LiveLayer
from dgq.inference.products import Products
from dgq.inference.residual_input import ResidualInput
from dgq.inference.residual_layer import ResidualLayer
from dgq.inference.weight_only_layer import WeightOnlyLayer
from dgq.inference.weight_unit import separate_, unite_
from dgq.ops.reference import attention as reference_attention
from dgq.settings.shared_inputs import SHARED_INPUTS
from dgq.unet.attention import QuantizedAttention

KEPT_READER = "reads the same tensor as a kept layer"
FLOAT_WEIGHTS = "weights in floating point"
UNQUANTIZED = "activations in floating point"
TOO_WIDE = "multiplied weights do not fit into 8 bits"
ADAPTED = ".base_layer"
"""Suffix of the name of a layer that adapters wrap."""


def fold_layers_(unet: nn.Module, products: Products) -> Counter[str]:
    """Replace every layer that can be one integer product; returns why others cannot, counted."""
    reasons: Counter[str] = Counter()
    owners = {n: m for n, m in unet.named_modules() if isinstance(m, QuantizedAttention)}
    for name, owner in owners.items():
        for quantizer, leaves in readers_of(owner).items():
            if quantizer is owner.context_quantizer and owner.keep_start_text:
                reasons["the start token in floating point"] += len(leaves)
                continue
            names = [under_adapters(unet, f"{name}.{leaf}") for leaf in leaves]
            reasons.update(fold_readers_(unet, products, quantizer, names))
    # By name: a list of modules would keep their codes in memory.
    names = [n for n, module in unet.named_modules() if isinstance(module, FrozenLayer)]
    for name in names:
        if name.removesuffix(ADAPTED).rpartition(".")[2] not in SHARED_INPUTS:
            layer = unet.get_submodule(name)
            assert isinstance(layer, FrozenLayer)
            reasons.update(fold_readers_(unet, products, layer.input_quantizer, [name]))
            del layer
    hand_over_codes_(unet)
    unite_(unet)
    norm_by_pixels_(unet, products.compiles_norms)
    return reasons


def under_adapters(unet: nn.Module, name: str) -> str:
    """The name of a layer itself, which adapters may wrap."""
    return name + ADAPTED if hasattr(unet.get_submodule(name), "base_layer") else name


def unfold_layers_(unet: nn.Module) -> int:
    """Undo ``fold_layers_``: every layer takes back its stored form.

    Returns:
        How many layers multiplied integers.
    """
    hand_over_floats_(unet)
    separate_(unet)
    norm_by_pixels_(unet, wanted=False)
    names = [n for n, module in unet.named_modules() if isinstance(module, KernelLayer)]
    n_integer = 0
    for name in names:
        layer = unet.get_submodule(name)
        assert isinstance(layer, KernelLayer)
        n_integer += isinstance(layer, IntegerLayer)
        unet.set_submodule(name, layer.unfolded())
        del layer
    if names:
        lay_out_images_(unet, torch.contiguous_format)
    for module in unet.modules():
        if isinstance(module, ChannelInput):
            module.release_()
        if isinstance(module, QuantizedAttention):
            module.attend = reference_attention
    return n_integer


def lay_out_images_(unet: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out the weights of stock convolutions, and so the images that they write.

    Kernels read images channels last; where torch has no group norm of its own for a device, it
    reads contiguous ones only.
    """
    nn.Module.to(unet, memory_format=memory_format)  # type: ignore[call-overload]


def readers_of(owner: QuantizedAttention) -> dict[nn.Module, tuple[str, ...]]:
    """The layers of an attention that read each of its quantized inputs."""
    if owner.context_quantizer is None:
        return {owner.input_quantizer: SHARED_INPUTS}
    return {owner.input_quantizer: SHARED_INPUTS[:1], owner.context_quantizer: SHARED_INPUTS[1:]}


def fold_readers_(
    unet: nn.Module, products: Products, quantizer: nn.Module | None, names: list[str]
) -> Counter[str]:
    """Replace the layers that read one quantized tensor, all or none; returns why not."""
    layers = [unet.get_submodule(name) for name in names]
    frozen = [layer for layer in layers if isinstance(layer, FrozenLayer)]
    if len(frozen) < len(layers):
        return Counter({KEPT_READER: len(frozen)})
    obstacle = obstacle_of(quantizer, frozen)
    if obstacle == UNQUANTIZED:
        return Counter(lay_out_alone_(unet, products, name) for name in names)
    if obstacle is not None:
        return Counter({obstacle: len(frozen)})
    assert isinstance(quantizer, ChannelInput)
    channels = frozen[0].geometry.in_channels
    packed = [layer for layer in frozen if isinstance(layer, PackedLayer)]
    _, factor = quantizer.factors(channels)
    folded = [fold(layer, factor) for layer in packed]
    if any(weight is None for weight in folded):
        return Counter({TOO_WIDE: len(frozen)})
    quantizer.prepare_(channels, products)
    quantizer.emits_codes = packed[0].input_quantizer is None
    kind, made = integer_kind(quantizer), []
    for name, layer, weight in zip(names, packed, folded, strict=True):
        assert weight is not None
        made.append(kind(layer, quantizer, weight, products).eval())
        unet.set_submodule(name, made[-1])
    join_(made)
    return Counter()


def integer_kind(quantizer: ChannelInput) -> type[IntegerLayer]:
    """The class of the layers that read what a quantizer emits."""
    if isinstance(quantizer, ResidualInput):
        return ResidualLayer
    return LiveLayer if isinstance(quantizer, LiveInput) else IntegerLayer


def lay_out_alone_(unet: nn.Module, products: Products, name: str) -> str:
    """Lay out the weight of a layer with unquantized activations; returns how it then computes."""
    layer = unet.get_submodule(name)
    assert isinstance(layer, PackedLayer)
    weight = products.weight_alone(layer)
    if weight is None:
        return UNQUANTIZED
    unet.set_submodule(name, WeightOnlyLayer(layer, weight).eval())
    return f"{UNQUANTIZED}, weights unpacked as they are multiplied"


def obstacle_of(quantizer: nn.Module | None, layers: list[FrozenLayer]) -> str | None:
    """Why layers that read one quantized tensor cannot multiply integers, or None."""
    if not all(isinstance(layer, PackedLayer) for layer in layers):
        return FLOAT_WEIGHTS
    if quantizer is None or isinstance(quantizer, nn.Identity):
        return UNQUANTIZED
    if not isinstance(quantizer, ChannelInput):
        return "k-means groups need an integer product each, which is slower"
    if any(layer.geometry.pads for layer in layers) and not quantizer.has_code_of_zero():
        return "zeros around the image have no code"
    return None
