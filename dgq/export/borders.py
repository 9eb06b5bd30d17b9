"""Corrections at image borders, where padding with zeros does not mean codes of zero.

An engine pads codes with zeros, which stand for ``-scale * zero_point``. The bias of an inner pixel
accounts for the zero points of all taps of the kernel; at the border, the contribution of taps that
read no pixel is subtracted.
"""

import torch
from torch import Tensor

from dgq.unet.geometry import ConvGeometry


def outside(size: int | Tensor, out: int | Tensor, conv: ConvGeometry, axis: int) -> Tensor:
    """Which taps of a kernel read no pixel of a row or a column: ``[out, taps]``, bool.

    Args:
        size: pixels of the input along the axis.
        out: pixels of the output.
        conv: the convolution.
        axis: 0 for the height, 1 for the width.
    """
    first = torch.arange(out).unsqueeze(1) * conv.stride[axis] - conv.padding[axis]  # type: ignore[arg-type]
    pixel = first + torch.arange(conv.kernel[axis]) * conv.dilation[axis]
    return (pixel < 0) | (pixel >= size)


def missing_taps(x: Tensor, y: Tensor, conv: ConvGeometry) -> Tensor:
    """Taps that read no pixel, for each pixel of the output: float32 ``[height * width, taps]``.

    Args:
        x: input ``[batch, in, height, width]``.
        y: output ``[batch, out, height, width]``.
        conv: the convolution.
    """
    rows = outside(x.shape[2], y.shape[2], conv, 0)
    columns = outside(x.shape[3], y.shape[3], conv, 1)
    missing = rows.unsqueeze(1).unsqueeze(3) | columns.unsqueeze(0).unsqueeze(2)
    return missing.flatten(0, 1).flatten(1).float()


def border_correction(missing: Tensor, taken_back: Tensor, y: Tensor) -> Tensor:
    """What to add to each pixel of an output: ``[1, out, height, width]``.

    Args:
        missing: ``[height * width, taps]``, as ``missing_taps`` returns it.
        taken_back: ``[1, taps, out]``, the correction for each tap that reads no pixel.
        y: output ``[batch, out, height, width]``.
    """
    by_pixel: Tensor = (missing @ taken_back).unflatten(1, (y.shape[2], y.shape[3]))
    return by_pixel.permute(0, 3, 1, 2)
