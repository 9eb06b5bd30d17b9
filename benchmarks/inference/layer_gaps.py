"""Each shape of layer in a UNet: its distance from the device's peak, and from bfloat16."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.inference.device import is_gpu
from benchmarks.inference.peaks import Peaks, seconds_of
from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.unet.calls import SamplerCalls
from dgq.unet.geometry import ConvGeometry

FP8_CAPABILITY = (8, 9)
MOST_ELEMENTS = 10**9
"""Largest input matrix to compare with in fp8; a convolution's has a row for each window."""


@dataclass
class Shape:
    """Layers with the same computation.

    Args:
        geometry: their geometry, in words.
        input: shape of their input.
        layers: number of layers.
        seconds: seconds of one layer, with the quantization of its input if it is its own.
        product_seconds: seconds of its product alone.
        bf16_seconds: seconds of the stock layer.
        fp8_seconds: seconds of a matrix product of its size in fp8, without reading the windows of
            a convolution; None if there is none.
        least_seconds: seconds that the device needs for its operations and bytes.
        exact: whether the accumulators agree with float64.
    """

    geometry: str
    input: tuple[int, ...]
    layers: int
    seconds: float = 0.0
    product_seconds: float = 0.0
    bf16_seconds: float = 0.0
    fp8_seconds: float | None = None
    least_seconds: float = 0.0
    exact: bool = False


Arguments = tuple[IntegerLayer, tuple[Any, ...], dict[str, Any]]
"""A layer, and what it was called with."""


@torch.no_grad()
def layer_gaps(unet: nn.Module, call: Mapping[str, Any], peaks: Peaks, device: str) -> list[Any]:
    """Figures of all shapes in a call, longest total time first; plain values for JSON."""
    shapes: dict[Any, Shape] = {}
    arguments: dict[Any, Arguments] = {}

    def note(
        layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], _output: Tensor
    ) -> None:
        assert isinstance(layer, IntegerLayer)
        x = named.get("quantized", args[0])
        read = tuple(x.codes.shape if isinstance(x, QuantizedTensor) else x.shape)
        key = (layer.geometry, read, isinstance(x, QuantizedTensor))
        if key not in shapes:
            shapes[key] = Shape(str(layer.geometry), read, 0)
            arguments[key] = (layer, args, named)
        shapes[key].layers += 1

    layers = [module for module in unet.modules() if isinstance(module, IntegerLayer)]
    handles = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    unet(**call)
    for handle in handles:
        handle.remove()
    calls: SamplerCalls = unet.calls  # type: ignore[assignment]
    calls.begin(call["sample"], call["timestep"])
    for key, shape in shapes.items():
        measure_shape(shape, *arguments.pop(key), peaks, device)
    calls.current = None
    ordered = sorted(shapes.values(), key=lambda shape: -shape.layers * shape.seconds)
    return [asdict(shape) for shape in ordered]


def measure_shape(
    shape: Shape,
    layer: IntegerLayer,
    args: tuple[Any, ...],
    named: dict[str, Any],
    peaks: Peaks,
    device: str,
) -> None:
    """Fill in the figures of one shape."""
    x = named.get("quantized", args[0])
    codes = x if isinstance(x, QuantizedTensor) else codes_of(layer, x)
    output = product(layer, codes)()
    shape.exact = is_exact(layer, codes)
    shape.seconds = seconds_of(lambda: layer(*args, **named), device)
    shape.product_seconds = seconds_of(product(layer, codes), device)
    shape.bf16_seconds = seconds_of(stock(layer, args[0], codes), device)
    out = layer.geometry.out_channels
    shape.fp8_seconds = fp8_seconds(output.numel() // out, layer.fan_in, out, device)
    operations = 2.0 * output.numel() * layer.fan_in
    weight = sum(t.numel() * t.element_size() for t in layer.kernel_weight.tensors.values())
    n_bytes = codes.codes.numel() + weight + output.numel() * output.element_size()
    shape.least_seconds = peaks.least_seconds(operations, n_bytes, integer=True)


def fp8_seconds(rows: int, inputs: int, out: int, device: str) -> float | None:
    """Seconds of a matrix product in fp8 by cuBLAS."""
    if not is_gpu(device) or torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        return None
    if rows * inputs > MOST_ELEMENTS or inputs % 16 or out % 16:
        return None
    drawn = (torch.randn(n, inputs, device=device, dtype=torch.bfloat16) for n in (rows, out))
    left, right = (values.to(torch.float8_e4m3fn) for values in drawn)
    one = torch.ones((), device=device)
    run = partial(torch._scaled_mm, left, right.t(), one, one, out_dtype=torch.bfloat16)
    return seconds_of(run, device)


def codes_of(layer: IntegerLayer, x: Tensor) -> QuantizedTensor:
    """A layer's quantized input."""
    if isinstance(layer.geometry, ConvGeometry):
        return layer._codes(x.permute(0, 2, 3, 1), layer.geometry.padding)
    return layer._codes(x)


def product(layer: IntegerLayer, codes: QuantizedTensor) -> Callable[[], Tensor]:
    """A function that runs the layer's product alone."""
    return lambda: layer.kernel_weight.multiply(codes, layer.weight_scale, layer.folded_bias)


def is_exact(layer: IntegerLayer, codes: QuantizedTensor) -> bool:
    """Whether the first sample's sums, which float32 holds, equal those in float64."""
    whole = layer.kernel_weight.whole_numbers().double()
    first = codes.codes[:1]
    one = torch.ones_like(layer.weight_scale)
    zero = torch.zeros_like(layer.folded_bias[:1])
    plain = QuantizedTensor(first, codes.scale.new_ones(1), codes.step[:1] * 0, torch.float32)
    found = layer.kernel_weight.multiply(plain, one, zero)
    geometry = layer.geometry
    if isinstance(geometry, ConvGeometry):
        kernels = whole.view(geometry.weight_shape)
        planes = first.permute(0, 3, 1, 2).double()
        window = (geometry.stride, 0, geometry.dilation, geometry.groups)
        expected = nn.functional.conv2d(planes, kernels, None, *window).permute(0, 2, 3, 1)
    else:
        expected = first.double() @ whole.t()
    return torch.equal(found, expected.float())


def stock(layer: IntegerLayer, x: Any, codes: QuantizedTensor) -> Callable[[], Tensor]:
    """A function that runs the stock layer in bfloat16 on an input of the same shape."""
    weight, bias = layer.operands()
    if isinstance(x, QuantizedTensor):
        x = torch.randn(codes.codes.shape, device=weight.device)
    x, weight = x.bfloat16(), weight.bfloat16()
    bias = None if bias is None else bias.bfloat16()
    if isinstance(layer.geometry, ConvGeometry):
        x = x.contiguous(memory_format=torch.channels_last)
        weight = weight.contiguous(memory_format=torch.channels_last)
    return lambda: layer.geometry.apply(x, weight, bias)
