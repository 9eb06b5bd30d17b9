"""Bytes that a calibration would write and hold, computed from shapes alone."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from torch import Tensor, nn

from dgq.inference.channel_input import ChannelInput
from dgq.inference.input_quantizers import GroupedInput, InputQuantizer
from dgq.settings import WaitingSettings

RANGES_BYTES = 2 * 4
"""Bytes of a minimum and a maximum in float32."""


def model_bytes(unet: nn.Module, n_steps: int) -> int:
    """Bytes of the finished model's tensors.

    Args:
        unet: a UNet of inference modules without tensors.
        n_steps: distinct timesteps of the sampler.
    """
    stored: int = sum(t.numel() * t.element_size() for t in unet.state_dict().values())
    return stored + sum(scale_bytes(q, n_steps) for q in input_quantizers(unet))


def input_quantizers(unet: nn.Module) -> list[InputQuantizer]:
    """Quantizers of activations."""
    return [module for module in unet.modules() if isinstance(module, InputQuantizer)]


def scale_bytes(quantizer: InputQuantizer, n_steps: int) -> int:
    """Bytes of one quantizer's tables: scales in float32, zero points and multiples in 16 bits.

    K-means groups are counted as eight groups of channels; of pixels there may be more.
    """
    if isinstance(quantizer, GroupedInput):
        return n_steps * (8 * (4 + 2) + quantizer.channels)
    assert isinstance(quantizer, ChannelInput)
    channels = quantizer.channels if quantizer.max_exponent else 1
    return n_steps * (4 + 2 * channels) + 2 * channels


def checkpoint_bytes(model: int, input_shapes: Iterable[tuple[int, ...]], n_steps: int) -> int:
    """Bytes of ``last.ckpt``: the model, and ranges by channel and pixel for each step.

    Args:
        model: bytes of the finished model.
        input_shapes: shape of each tensor that is quantized.
        n_steps: distinct timesteps.
    """
    members = sum(members_of(shape) for shape in input_shapes)
    return model + members * n_steps * RANGES_BYTES


def members_of(shape: tuple[int, ...]) -> int:
    """Channels plus pixels of an activation; 1 for 2-D activations."""
    if len(shape) == 2:
        return 1
    return shape[1] + prod(shape[2:]) if len(shape) == 4 else shape[1] + shape[2]


def recorded_bytes(call: Mapping[str, Any], n_calls: int, n_prompts: int, n_halves: int) -> int:
    """Bytes of the recorded calls: latents for each call, and once per prompt what does not change.

    Args:
        call: call of one row.
        n_calls: UNet calls per prompt.
        n_prompts: prompts that are drawn.
        n_halves: 2 with guidance.
    """
    latents = bytes_of(call["sample"])
    others = sum(bytes_of(v) for k, v in call.items() if k not in ("sample", "timestep"))
    return n_prompts * (n_calls * latents + n_halves * others)


def bytes_of(value: Any) -> int:
    """Bytes of nested tensors."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(bytes_of(item) for item in value.values()) if isinstance(value, Mapping) else 0


def waiting_total(each: int, n_rows: int, waiting: WaitingSettings, n_streams: int) -> int:
    """Bytes of all samples that wait.

    Args:
        each: bytes of a row in one stream, as computed.
        n_rows: rows of all samples.
        waiting: how they wait.
        n_streams: streams that a row waits in.
    """
    return n_streams * n_rows * (each if waiting.dtype == "same" else each // 2)
