"""Freeze a calibrated UNet: what calibration found becomes the packed tensors that run."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.inference.build import build_, fill_
from dgq.settings import QuantizationSettings
from dgq.unet.context import context_of
from dgq.unet.layers import quantized_layers
from dgq.unet.quantize import activation_quantizers

RENAMED = (
    (r"\.weight_quantizer\.", "."),
    (r"\.processor\.hidden\.", ".input_quantizer."),
    (r"\.processor\.text\.", ".context_quantizer."),
    (r"\.processor\.scores\.", ".score_quantizer."),
    (r"\.processor\.(query|key|value)\.", r".\1_quantizer."),
)
"""Tensor names in calibration modules (and in the first file format) to those in inference ones."""

LEARNED = (".learnable.", ".learnable_output.", ".learnable_codes.", ".observer.")


@torch.no_grad()
def freeze_(unet: nn.Module, settings: QuantizationSettings) -> None:
    """Turn a calibrated UNet into one that runs, in place: floating-point weights are dropped.

    Args:
        unet: a calibrated one: every target is hardened, every range is fitted.
        settings: those that it was calibrated with.

    Raises:
        DGQError: if a layer has no codes yet, or an activation no scales; nothing is changed then.
    """
    context = context_of(unet)
    check_calibrated(unet)
    state = frozen_state(unet.state_dict(), settings)
    build_(unet, settings, context.timesteps, context.latent_size)
    fill_(unet, state)


def check_calibrated(unet: nn.Module) -> None:
    """Raise DGQError for a UNet whose calibration has not finished."""
    layers, quantizers = quantized_layers(unet).items(), activation_quantizers(unet).items()
    weights = {n: layer.weight_quantizer for n, layer in layers}
    open_ones = [n for n, w in weights.items() if w is not None and w.codes.numel() == 0]
    open_ones += [name for name, quantizer in quantizers if quantizer.scale.numel() == 0]
    if open_ones:
        raise DGQError(
            f"this UNet is not calibrated: {open_ones[0]} and {len(open_ones) - 1} more have no "
            "scales yet"
        )


def frozen_state(
    calibrated: Mapping[str, Tensor], settings: QuantizationSettings
) -> dict[str, Tensor]:
    """Convert the tensors of calibration modules to those of inference modules.

    Files of the first format hold calibration modules, so this reads them too.
    """
    owners: dict[str, dict[str, Tensor]] = {}
    for name, tensor in calibrated.items():
        owner, _, leaf = name.rpartition(".")
        if not any(part in name for part in LEARNED):
            owners.setdefault(owner, {})[leaf] = tensor
    state: dict[str, Tensor] = {}
    for owner, tensors in owners.items():
        if f"{owner}.weight_quantizer" in owners:
            continue  # weight and bias in full precision
        state |= {renamed(f"{owner}.{k}"): t for k, t in frozen(owner, tensors, settings).items()}
    return state


def frozen(
    owner: str, tensors: dict[str, Tensor], settings: QuantizationSettings
) -> dict[str, Tensor]:
    """The tensors of one module as its inference counterpart holds them."""
    if owner.endswith(".weight_quantizer"):
        return {name: t for name, t in tensors.items() if t.numel()}  # some have no bias
    if "zero_point" not in tensors:
        return tensors
    if tensors["scale"].numel() == 0:
        return {}  # 16 bits: passes its input unchanged
    tensors = tensors | {"zero_point": narrow(tensors["zero_point"])}
    name = renamed(f"{owner}.").removesuffix(".")
    activations = settings.activations_of(name.rpartition(".")[0])
    one_group = activations.grouping == "kmeans" and activations.n_groups == 1
    is_score = name.endswith(".score_quantizer")
    if "group_index" in tensors and (one_group or is_score):
        # One group for the whole tensor: stored as one channel that stands for all.
        one = torch.ones(1, dtype=torch.int16)
        return tensors_of_channels(tensors["scale"][:, 0], tensors["zero_point"], one)
    if "exponent" in tensors:
        # Powers of two below the largest scale are multiples of the finest.
        largest = activations.max_exponent
        multiple = (1 << (largest - tensors["exponent"].to(torch.int16))).to(torch.int16)
        scale = tensors["scale"] * 2.0**-largest
        return tensors_of_channels(scale, tensors["zero_point"], multiple)
    return tensors


def tensors_of_channels(scale: Tensor, zero_point: Tensor, multiple: Tensor) -> dict[str, Tensor]:
    """The tensors of a ``ChannelInput``, by name."""
    return {"scale": scale, "zero_point": zero_point, "multiple": multiple}


def renamed(name: str) -> str:
    """The name of a tensor in the inference modules."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def narrow(zero_point: Tensor) -> Tensor:
    """Zero points as int16 where they fit, else as int32."""
    fits = bool((zero_point.abs() < 2**15).all())
    return zero_point.to(torch.int16 if fits else torch.int32)
