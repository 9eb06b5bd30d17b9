"""Quantized layers in the form that engines execute in int8.

As in ``dgq.inference.folding``, with ``x = s[t] m[c] (q - z[t, c])``::

    codes = clamp(round(x / (s[t] m[c]) + z[t, c]))              one scale, 1, for the whole tensor
    y[o] = s[t] (w[o] . codes + constant[o]) + rest[t, o]        int8 weights by output channel

The first line is a multiplication and an addition, then a quantization with a fixed range: whatever
depends on channel and step never reaches the quantized operands. ``constant`` is the average over
the steps of what zero points add. It is large compared with the differences between steps, so
engines add it before they round to 16 bits.
"""

import torch
from torch import Tensor, nn

from dgq.export.borders import border_correction, missing_taps
from dgq.export.operators import LARGEST, Operators
from dgq.export.step_rows import StepRows, StepVector
from dgq.inference.channel_input import ChannelInput
from dgq.inference.folding import largest_exponent, zero_point_sums
from dgq.inference.input_quantizers import InputQuantizer
from dgq.inference.layers import FrozenLayer, PackedLayer
from dgq.unet.geometry import ConvGeometry, Geometry


class CodesOf(nn.Module):
    """Codes of an activation, as whole numbers in floating point.

    Args:
        quantizer: quantizer of the activation.
        channels: channels of the activation.
        rows: table that takes the vectors that depend on the step.
        operators: operators of the engine.
    """

    factor: Tensor | None

    def __init__(
        self, quantizer: ChannelInput, channels: int, rows: StepRows, operators: Operators
    ) -> None:
        super().__init__()
        self.operators = operators
        self.largest = quantizer.largest
        on_codes, _ = quantizer.factors(channels)
        scale = quantizer.scale[:, None].double() * quantizer.multiple.expand(channels)
        self.inverse = rows.add(1 / scale)
        self.zero_point = rows.add(quantizer.zero_point.expand(-1, channels))
        self.scale = rows.add(quantizer.scale[:, None])
        """Scale of the codes, ``[1, 1]``, with which layers multiply their sums."""
        whole = self.largest == LARGEST
        self.register_buffer("factor", None if whole else on_codes.float())

    def forward(self, x: Tensor) -> Tensor:
        """Codes of ``x``, in its shape."""
        codes = x * along_channels(self.inverse(), x) + along_channels(self.zero_point(), x)
        if self.factor is not None:
            codes = codes.round().clamp(0, self.largest) * along_channels(
                self.factor.unsqueeze(0), x
            )
        return self.operators.codes(codes)


class CodeLayer(nn.Module):
    """A linear or convolution layer that reads codes.

    Args:
        packed: the layer.
        quantizer: quantizer of its input.
        codes: codes made from that quantizer.
        folded: int8 weight ``[out, n]`` times all factors.
        rows: table that takes the vectors that depend on the step.
    """

    weight: Tensor
    weight_scale: Tensor
    constant: Tensor

    def __init__(
        self,
        packed: PackedLayer,
        quantizer: ChannelInput,
        codes: CodesOf,
        folded: Tensor,
        rows: StepRows,
    ) -> None:
        super().__init__()
        self.geometry = packed.geometry
        self.operators = codes.operators
        self.input_quantizer = None if packed.input_quantizer is None else codes
        self.scale = codes.scale
        on_codes, _ = quantizer.factors(self.geometry.in_channels)
        zeros = quantizer.zero_point.double() * on_codes
        scale, weight_scale = quantizer.scale[:, None].double(), scale_of(packed)
        sums = -weight_scale * zero_point_sums(folded, zeros, self.geometry)
        constant = sums.mean(0)
        rest = scale * (sums - constant)
        self.rest = rows.add(rest if packed.bias is None else rest + packed.bias)
        self.taken_back: StepVector | None = None
        if self.geometry.pads and bool(zeros.any()):
            by_tap = scale[:, None] * weight_scale * sums_by_tap(folded, zeros, self.geometry)
            self.taken_back = rows.add(by_tap.flatten(1))
        weight = self.operators.stored(folded.view(self.geometry.weight_shape))
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale.float())
        self.register_buffer("constant", constant.float())

    def forward(self, x: Tensor) -> Tensor:
        """The stock layer's output, for a tensor or its codes."""
        codes = x if self.input_quantizer is None else self.input_quantizer(x)
        weight = self.operators.dequantized(self.weight, self.weight_scale)
        sums = self.geometry.apply(codes, weight, None)
        sums = sums + along_channels(self.constant.unsqueeze(0), sums)
        y = sums * along_channels(self.scale(), sums) + along_channels(self.rest(), sums)
        if self.taken_back is None:
            return y
        assert isinstance(self.geometry, ConvGeometry)
        by_tap = self.taken_back().unflatten(1, (-1, self.geometry.out_channels))
        return y + border_correction(missing_taps(codes, y, self.geometry), by_tap, y)


class PlainLayer(nn.Module):
    """A layer that stays in floating point; its weight is dequantized once.

    Args:
        frozen: the layer.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, frozen: FrozenLayer) -> None:
        super().__init__()
        self.geometry: Geometry = frozen.geometry
        own = frozen.input_quantizer
        self.input_quantizer = None if own is None else PlainQuantizer(own)
        weight, bias = frozen.operands()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """The stock layer's output."""
        x = x if self.input_quantizer is None else self.input_quantizer(x)
        return self.geometry.apply(x, self.weight, self.bias)


class PlainQuantizer(nn.Module):
    """Quantizes and dequantizes with operators that engines support.

    Args:
        quantizer: quantizer with the same result.
    """

    def __init__(self, quantizer: InputQuantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        """The quantized tensor in floating point."""
        scale, zero_point = self.quantizer.parameters_of(x)
        codes = ((x / scale).round() + zero_point).clamp(0, self.quantizer.largest)
        return (codes - zero_point) * scale


def scale_of(packed: PackedLayer) -> Tensor:
    """Factor of a folded weight, float64 ``[out]``."""
    return packed.scale.double() * 2.0 ** -largest_exponent(packed.exponent)


def sums_by_tap(folded: Tensor, zero_point: Tensor, conv: Geometry) -> Tensor:
    """Contribution of zero points through each tap of a kernel: float64 ``[steps, taps, out]``.

    Args:
        folded: int8 ``[out, n]``.
        zero_point: ``[steps, channels]``, times the factors of the codes.
        conv: the convolution.
    """
    assert isinstance(conv, ConvGeometry)
    kernels = folded.view(conv.out_channels, -1, conv.kernel[0] * conv.kernel[1])
    taps = [
        zero_point_sums(kernels[:, :, tap].contiguous(), zero_point, conv)
        for tap in range(kernels.shape[2])
    ]
    return torch.stack(taps, 1)


def along_channels(vector: Tensor, x: Tensor) -> Tensor:
    """``[1, n]`` broadcastable to the channels of ``x``: the second axis of images or the last."""
    # Not by indexing, which leaves slices in traces.
    if x.ndim == 4:
        return vector.unsqueeze(2).unsqueeze(3)
    return vector.unsqueeze(1) if x.ndim == 3 else vector
