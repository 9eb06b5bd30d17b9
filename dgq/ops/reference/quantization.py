"""Quantization of activations, and their ranges, in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def quantize(
    x: Tensor,
    scale: Tensor,
    multiple: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
    largest: int,
    padding: list[int],
    offset: int | None = None,
    spoilt: Tensor | None = None,
) -> Tensor:
    """Codes ``clamp(round(x / (scale multiple)) + zero_point, 0, largest) * factor - offset``.

    Args:
        x: ``[batch, height, width, channels]``, ``[batch, tokens, channels]`` or
            ``[batch, channels]``.
        scale: ``[steps]``, the finest scale.
        multiple: ``[channels]``, whole numbers: each channel's scale in units of the finest.
        zero_point: ``[steps, channels]``, whole numbers.
        factor: ``[channels]``, whole numbers that the codes are multiplied by.
        step: ``[1]`` or ``[batch]``, the row of ``scale`` and ``zero_point`` of each sample.
        largest: largest code before the multiplication.
        padding: padding of height and width, with the codes of zero; or empty.
        offset: subtracted to get int8 codes; None for uint8 codes.
        spoilt: ``[batch]``, set to NaN for samples that contain NaN, since their codes do not show
            it.

    Returns:
        Codes of the shape of ``x``, padded.
    """
    step = step if scale.shape[0] > 1 else step.new_zeros(1)
    rows = [-1, *[1] * (x.ndim - 2), 1]
    if any(padding):
        height, width = padding
        x = F.pad(x, (0, 0, width, width, height, height))
    codes = (x.float() / (scale[step].view(rows) * multiple)).round()
    if spoilt is not None:
        spoilt.masked_fill_(codes.isnan().flatten(1).any(1), torch.nan)
    zeros = zero_point[step].float().view([*rows[:-1], x.shape[-1]])
    return code_of(codes, zeros, factor, largest, offset)


def quantize_gated(
    x: Tensor,
    scale: Tensor,
    multiple: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
    largest: int,
    offset: int | None = None,
    spoilt: Tensor | None = None,
) -> Tensor:
    """Codes of ``value * gelu(gate)`` (GEGLU, 2002.05202).

    Args:
        x: ``[batch, ..., 2 channels]``: values, then gates.
        scale: as in ``quantize``, like all that follow.
    """
    value, gate = x.float().chunk(2, -1)
    tables = (scale, multiple, zero_point, factor, step)
    return quantize(value * F.gelu(gate), *tables, largest, [], offset, spoilt)


def pad(
    codes: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
    largest: int,
    padding: list[int],
    offset: int | None = None,
) -> Tensor:
    """Codes of an image padded with codes of zero: as if ``quantize`` had padded it.

    Args:
        codes: ``[batch, height, width, channels]``, as ``quantize`` returns them without padding.
        zero_point: as in ``quantize``, like all that follow.
    """
    height, width = padding
    step = step if zero_point.shape[0] > 1 else step.new_zeros(1)
    zeros = zero_point[step].float()
    of_zero = code_of(torch.zeros_like(zeros), zeros, factor, largest, offset)
    padded = of_zero[:, None, None].expand(padded_shape(codes, padding)).clone()
    padded[:, height : padded.shape[1] - height, width : padded.shape[2] - width] = codes
    return padded


def code_of(
    quotients: Tensor, zeros: Tensor, factor: Tensor, largest: int, offset: int | None
) -> Tensor:
    """Codes of rounded quotients at their zero points; the rest is as in ``quantize``."""
    codes = (quotients + zeros).clamp(0, largest) * factor - (offset or 0)
    return codes.to(code_dtype(offset))


def channel_ranges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each channel of each sample, both float32 ``[batch, channels]``.

    Args:
        x: ``[batch, height, width, channels]`` or ``[batch, tokens, channels]``.
    """
    x = x.flatten(1, -2)
    return x.amin(1).float(), x.amax(1).float()


def padded_shape(x: Tensor, padding: list[int]) -> list[int]:
    """Shape of ``[batch, height, width, channels]`` after padding; other tensors keep theirs."""
    shape = list(x.shape)
    for dim, pad in zip((1, 2), padding, strict=False):
        shape[dim] += 2 * pad
    return shape


def code_dtype(offset: int | None) -> torch.dtype:
    """Dtype of codes after an offset was subtracted."""
    return torch.uint8 if offset is None else torch.int8
