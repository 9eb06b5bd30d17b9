"""Put quantized layers and quantized attention into a stock diffusers UNet."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import nn

from dgq.errors import DGQError, SettingsError
from dgq.quantizers.activations import activation_quantizer
from dgq.quantizers.range_quantizer import RangeQuantizer
from dgq.quantizers.scores import score_quantizer
from dgq.settings import FLOAT_BITS, QuantizationSettings
from dgq.settings.integer_product import check_alike
from dgq.settings.shared_inputs import input_owner, shares_input
from dgq.settings.steps import problem_of_steps
from dgq.torch_defaults import torch_defaults
from dgq.unet.absorb import absorb_multiples_
from dgq.unet.attention import become_quantized_ as attention_becomes_quantized_
from dgq.unet.context import QuantizationContext, context_of
from dgq.unet.layers import QuantConv2d, QuantLinear, quantized_layers
from dgq.unet.quantized_unet import QuantizedUNet
from dgq.unet.quantized_unet import become_quantized_ as unet_becomes_quantized_
from dgq.unet.skips import channels_from_below
from dgq.unet.split_layer import names_of_parts, split_
from dgq.unet.start_token import kept_start
from dgq.unet.unet_checks import check_not_read, check_unet, layers_in_float

log = logging.getLogger(__name__)


@torch_defaults()
def quantize_(
    unet: UNet2DConditionModel,
    settings: QuantizationSettings,
    timesteps: Sequence[float],
    latent_size: tuple[int, int],
) -> UNet2DConditionModel:
    """Make a stock UNet quantizable, in place; nothing is calibrated yet.

    Args:
        unet: a UNet of Stable Diffusion 1.x, SDXL, or similar.
        settings: what is quantized and how.
        timesteps: the scheduler's values that activation scales are kept for.
        latent_size: height and width of the calibration's latents.

    Raises:
        DGQError: if the UNet is already quantized or not supported (see ``unet_checks``), or a
            pattern in ``settings.keep`` matches no layer.
    """
    if not isinstance(settings, QuantizationSettings):
        raise DGQError(
            f"settings: expected dgq.QuantizationSettings, got {settings!r:.60}; a recipe has them "
            "as recipe.quantization"
        )
    problem = problem_of_steps(timesteps, latent_size)
    if problem is not None:
        raise DGQError(problem)
    readers = skip_readers(unet, settings)
    names = names_of_parts(quantizable_layers(unet, settings.keep), readers)
    check_layers(unet, names, settings)
    split_(unet, readers)
    note_float_layers(unet, names)
    context = QuantizationContext(timesteps, latent_size)
    for name in names:
        swap_layer_(unet, name, settings, context)
    for name, attention in quantized_attentions(unet, names).items():
        is_cross = bool(attention.is_cross_attention)
        quantizers = attention_quantizers(settings, name, is_cross, context)
        kept = kept_start(settings, name, is_cross)
        attention_becomes_quantized_(attention, context, quantizers, kept)
    unet_becomes_quantized_(unet, context)
    return unet


def quantizable_layers(unet: nn.Module, keep: Sequence[str]) -> list[str]:
    """Names of the layers that ``quantize_`` will replace; raises the same errors."""
    if isinstance(unet, QuantizedUNet):
        raise DGQError("this UNet is quantized already: load a fresh one")
    check_unet(unet)
    names = layers_to_quantize(unet, keep)
    check_not_read(unet, names)
    return names


def layers_to_quantize(unet: nn.Module, keep: Sequence[str]) -> list[str]:
    """Names of all linear and convolution layers that no pattern keeps in full precision."""
    names = [n for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for pattern in keep:
        if not any(fnmatch(name, pattern) for name in names):
            raise DGQError(f"keep: the pattern {pattern!r} matches no layer of this UNet")
    return [n for n in names if not any(fnmatch(n, pattern) for pattern in keep)]


def skip_readers(unet: nn.Module, settings: QuantizationSettings) -> dict[str, int]:
    """Layers whose input is split at a skip, with the number of channels before the skip."""
    if not settings.split_skips:
        return {}
    quantized = set(layers_to_quantize(unet, settings.keep))
    return {
        name: channels
        for resnet, channels in channels_from_below(unet).items()
        for name in (f"{resnet}.{reader}" for reader in settings.split_skips)
        if name in quantized
    }


def check_layers(unet: nn.Module, names: Sequence[str], settings: QuantizationSettings) -> None:
    """Raise DGQError for settings of unknown layers, or that differ among layers sharing an input.

    Either all layers that read one tensor absorb its multiples, or none does.
    """
    unknown = settings.layers.keys() - {*names, *quantized_attentions(unet, names)}
    if unknown:
        raise DGQError(f"layers: {min(unknown)} is not a layer or attention that is quantized here")
    for name in names:
        try:
            check_alike(settings.weights_of(name), settings.weights_of(input_owner(name)))
        except SettingsError as error:
            raise DGQError(f"{name}: {error}") from error


def note_float_layers(unet: nn.Module, names: Sequence[str]) -> None:
    """Log which layers stay in floating point because no recipe quantizes their kind."""
    others = {
        name: kind
        for name, kind in layers_in_float(unet, names).items()
        if kind not in ("Linear", "Conv2d")  # these are kept by a pattern
    }
    if others:
        listed = ", ".join(f"{name} ({kind})" for name, kind in others.items())
        log.warning("these stay in floating point, as no recipe quantizes their kind: %s", listed)


def swap_layer_(
    unet: nn.Module, name: str, settings: QuantizationSettings, context: QuantizationContext
) -> None:
    """Replace one layer by its quantized counterpart, which keeps the parameters."""
    stock = unet.get_submodule(name)
    own = settings.weights_of(name), settings.activations_of(name)
    if isinstance(stock, nn.Conv2d):
        unet.set_submodule(name, QuantConv2d(stock, *own, context, shares_input(name)))
    elif isinstance(stock, nn.Linear):
        unet.set_submodule(name, QuantLinear(stock, *own, context, shares_input(name)))


def quantized_attentions(unet: nn.Module, quantized: Sequence[str]) -> dict[str, Attention]:
    """Attentions that have quantized layers, by name; others stay stock."""
    owners = {name.partition(".to_")[0] for name in quantized}
    found = unet.named_modules()
    return {n: module for n, module in found if isinstance(module, Attention) and n in owners}


def attention_quantizers(
    settings: QuantizationSettings, name: str, is_cross: bool, context: QuantizationContext
) -> dict[str, nn.Module | None]:
    """The quantizers of one attention; see ``attention.become_quantized_``."""
    activations = settings.activations_of(name)
    inside = activations if activations.qkv else replace(activations, n_bits=16)
    quantizers: dict[str, nn.Module | None] = {
        "input": activation_quantizer(activations, context),
        "context": activation_quantizer(activations, context, of_text=True) if is_cross else None,
        "query": activation_quantizer(inside, context),
        "key": activation_quantizer(inside, context, of_text=is_cross),
        "value": activation_quantizer(inside, context, of_text=is_cross),
        "score": score_quantizer(settings, is_cross, context),
    }
    return quantizers


def activation_quantizers(unet: nn.Module) -> dict[str, RangeQuantizer]:
    """All activation quantizers that quantize, by name."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, RangeQuantizer) and module.n_bits != FLOAT_BITS
    }


def check_calibrating(network: nn.Module) -> None:
    """Raise DGQError for a network without any layer under calibration."""
    if not (isinstance(network, nn.Module) and quantized_layers(network)):
        context_of(network)


def start_observing_(unet: nn.Module) -> None:
    """Make every activation quantizer record ranges from now on.

    Raises:
        DGQError: if the UNet is not being calibrated.
    """
    check_calibrating(unet)
    for quantizer in activation_quantizers(unet).values():
        quantizer.start_observing_()


@torch_defaults()
def fit_activations_(unet: nn.Module) -> None:
    """Choose axes, groups and scales of all activations from their observed ranges.

    Weights absorb the multiples of their inputs where their settings say so.

    Raises:
        DGQError: if the UNet is not being calibrated, or ranges were not observed.
    """
    check_calibrating(unet)
    for name, quantizer in activation_quantizers(unet).items():
        quantizer.fit_(name)
    absorb_multiples_(unet)
