"""Build inference modules into a UNet, to be filled with tensors of a calibration or a file."""

from collections.abc import Mapping, Sequence

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.inference.channel_input import ChannelInput
from dgq.inference.input_quantizers import GroupedInput, InputQuantizer
from dgq.inference.layers import FloatLayer, FrozenLayer, PackedLayer
from dgq.inference.live_input import LiveInput
from dgq.inference.residual_input import ResidualInput
from dgq.inference.scores import AffineScores, CalibratedLogScores
from dgq.quantizers.scores import LogScoreQuantizer, score_method
from dgq.settings import FLOAT_BITS, ActivationSettings, QuantizationSettings, operand_bits
from dgq.settings.shared_inputs import shares_input
from dgq.unet import attention, quantized_unet
from dgq.unet.calls import SamplerCalls
from dgq.unet.geometry import geometry_of
from dgq.unet.projections import input_quantizer_of
from dgq.unet.quantize import (
    check_layers,
    layers_to_quantize,
    quantized_attentions,
    skip_readers,
)
from dgq.unet.split_layer import names_of_parts, split_
from dgq.unet.start_token import kept_start

BY_CHANNEL: dict[str, type[ChannelInput]] = {"live": LiveInput, "residual": ResidualInput}
"""Quantizers of groupings without a table of scales."""


def build_(
    unet: nn.Module,
    settings: QuantizationSettings,
    timesteps: Sequence[float],
    latent_size: tuple[int, int],
) -> None:
    """Replace the layers of a UNet that are to be quantized by inference modules, still empty.

    Args:
        unet: stock, or calibrated; its parameters may be on the meta device.
        settings: what is quantized and how.
        timesteps: the scheduler's values that scales exist for.
        latent_size: height and width of the latents of the calibration.
    """
    readers = skip_readers(unet, settings)
    names = names_of_parts(layers_to_quantize(unet, settings.keep), readers)
    check_layers(unet, names, settings)
    split_(unet, readers)
    warns, remembers = settings.follows_steps, settings.remembers
    calls = SamplerCalls(timesteps, latent_size, warns, remembers)
    for name in names:
        unet.set_submodule(name, empty_layer(unet, name, settings, calls))
    for name, owner in quantized_attentions(unet, names).items():
        equip_attention_(owner, settings, calls, name)
    quantized_unet.become_quantized_(unet, calls)


def empty_layer(
    unet: nn.Module, name: str, settings: QuantizationSettings, calls: SamplerCalls
) -> FrozenLayer:
    """The inference module of one linear or convolution layer, without tensors."""
    stock = unet.get_submodule(name)
    assert isinstance(stock, nn.Linear | nn.Conv2d)
    weights, activations = settings.weights_of(name), settings.activations_of(name)
    n_bits = operand_bits(activations.n_bits)
    geometry = geometry_of(stock, name)
    shared = shares_input(name)
    quantizer = (
        None
        if shared
        else input_quantizer(activations, calls, geometry.in_channels, absorbed=weights.absorbs)
    )
    arguments = (geometry, quantizer, n_bits)
    has_bias = stock.bias is not None
    if operand_bits(weights.n_bits) == FLOAT_BITS:
        layer: FrozenLayer = FloatLayer(*arguments, has_bias=has_bias)
    else:
        layer = PackedLayer(*arguments, weights=weights, has_bias=has_bias)
    return layer.train(stock.training)


def input_quantizer(
    activations: ActivationSettings,
    calls: SamplerCalls,
    channels: int,
    of_text: bool = False,
    absorbed: bool = False,
) -> InputQuantizer | None:
    """An empty quantizer of an activation; None where it stays in floating point."""
    if operand_bits(activations.n_bits) == FLOAT_BITS:
        return None
    if activations.grouping != "kmeans":
        kind = BY_CHANNEL.get(activations.grouping, ChannelInput)
        return kind(
            *(activations.n_bits, calls, channels, of_text),
            *(activations.max_exponent, absorbed),
        )
    grouped = ChannelInput if activations.n_groups == 1 else GroupedInput
    return grouped(activations.n_bits, calls, channels, of_text)


def equip_attention_(
    owner: Attention, settings: QuantizationSettings, calls: SamplerCalls, name: str
) -> None:
    """Give an attention the empty quantizers of its inputs, q, k, v and scores."""
    activations = settings.activations_of(name)
    absorbed = settings.weights_of(name).absorbs
    is_cross = owner.is_cross_attention
    kept = kept_start(settings, name, is_cross)

    def quantizer(exists: bool, channels: int, of_text: bool = False) -> nn.Module:
        made = input_quantizer(activations, calls, channels, of_text, absorbed) if exists else None
        return nn.Identity() if made is None else made

    inside, width = activations.qkv, owner.inner_dim
    text_width = owner.cross_attention_dim
    quantizers = {
        "input": quantizer(True, owner.query_dim),
        "context": quantizer(True, text_width, of_text=True) if is_cross else None,
        "query": quantizer(inside, width),
        "key": quantizer(inside, width, of_text=is_cross),
        "value": quantizer(inside, width, of_text=is_cross),
        "score": score_quantizer(settings, is_cross, kept.scores, calls),
    }
    attention.become_quantized_(owner, calls, quantizers, kept)


def score_quantizer(
    settings: QuantizationSettings, is_cross: bool, keep_start: bool, calls: SamplerCalls
) -> nn.Module | None:
    """The quantizer of one attention's scores; None where they stay in floating point."""
    scores = settings.scores
    if operand_bits(scores.n_bits) == FLOAT_BITS:
        return None
    if score_method(scores, is_cross) == "affine":
        return AffineScores(scores.n_bits, calls, keep_start)
    if scores.maximum == "calibrated":
        return CalibratedLogScores(scores.n_bits, calls, keep_start)
    return LogScoreQuantizer(scores.n_bits, keep_start)


def fill_(unet: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load tensors into empty inference modules and unquantized layers; checks names and values.

    Raises:
        DGQError: if the tensors are not those of this UNet.
    """
    try:
        unet.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise DGQError(f"the tensors do not fit the UNet: {str(error)[:300]}") from error
    check_tensors_(unet)


def check_tensors_(unet: nn.Module) -> None:
    """Make inference modules ready to compute with the tensors they were given.

    Raises:
        DGQError: for invalid shapes or values, and for weights that stay in floating point and are
            not finite.
    """
    for name, module in unet.named_modules():
        if isinstance(module, PackedLayer):
            module.settle_()
        if isinstance(module, FrozenLayer | InputQuantizer):
            problem = module.problem()
        else:
            problem = problem_of_floats(module)
        if problem is not None:
            raise DGQError(f"{name}: {problem}")
        if isinstance(module, GroupedInput):
            module.settle_()
        if isinstance(module, PackedLayer) and module.multiple is not None:
            check_absorbed(unet, name, module.multiple)


def check_absorbed(unet: nn.Module, name: str, multiple: Tensor) -> None:
    """Raise DGQError unless a weight absorbed the multiples of its input's channels."""
    quantizer = input_quantizer_of(unet, name)
    if not isinstance(quantizer, ChannelInput) or bool((quantizer.multiple != multiple).any()):
        raise DGQError(f"{name}: the weight absorbed other multiples than its input has")


def problem_of_floats(module: nn.Module) -> str | None:
    """What is wrong with the tensors that a stock module itself holds, if anything."""
    for name, tensor in module.named_parameters(recurse=False):
        if not bool(tensor.isfinite().all()):
            return f"{name} has values that are not finite"
    return None
