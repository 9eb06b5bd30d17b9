"""Integer products on a CPU: u8 codes, weights folded to s8."""

from collections.abc import Callable

import torch
from torch import Tensor

from dgq.inference.channel_input import ChannelInput
from dgq.inference.layers import PackedLayer
from dgq.inference.products.products import Products, ProductWeight
from dgq.inference.products.whole_weight import PlainWeight, WholeWeight, gated
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.ops import attention as fused_attention
from dgq.ops import cpu, native, onednn, quantize, quantize_gated, tile_layout
from dgq.ops.reference import attention as reference_attention
from dgq.ops.reference import dense
from dgq.unet.geometry import ConvGeometry, Geometry

OBSTACLE = (
    "no exact and fast products of bytes here: they need AVX512-VNNI, AVX-VNNI or AMX, or AVX2 and "
    "a C++ compiler"
)


class OneDNNWeight(WholeWeight):
    """A byte for each weight, in oneDNN's layout.

    Weights are not stacked: the layout has no rows, attention copies what is not contiguous, and
    one product of three layers' size is between 13 % faster and 10 % slower than three.

    Args:
        folded: int8 ``[out, n]``.
        factor: factor of the weights that meet each input channel, ``[in]``.
        geometry: of the layer.
    """

    def __init__(self, folded: Tensor, factor: Tensor, geometry: Geometry) -> None:
        super().__init__(laid_out(folded, geometry), factor, geometry)

    def whole_numbers(self) -> Tensor:
        """The weight converted back from oneDNN's layout."""
        return dense(self.tensor, self.geometry.weight_shape).flatten(1)


class TiledWeight(WholeWeight):
    """A byte for each weight, in tiles as our kernel multiplies them (AMX).

    Weights are not stacked: one product of three layers takes as long as three.

    Args:
        folded: int8 ``[out, n]``.
        factor: factor of the weights that meet each input channel, ``[in]``.
        geometry: of the layer, which has one group.
    """

    def __init__(self, folded: Tensor, factor: Tensor, geometry: Geometry) -> None:
        weight = folded.view(geometry.weight_shape)
        super().__init__(tile_layout.in_tiles(weight), factor, geometry)

    def multiply_gated(
        self, x: QuantizedTensor, weight_scale: Tensor, bias: Tensor, reader: ChannelInput
    ) -> QuantizedTensor:
        """Compute in one kernel."""
        return gated(x, self.tensor, weight_scale, bias, reader)

    def whole_numbers(self) -> Tensor:
        """The weight taken from the tiles, in the order of the stored codes."""
        return tile_layout.from_tiles(self.tensor, self.geometry.weight_shape).flatten(1)


class CpuProducts(Products):
    """Products by oneDNN and by our own kernels."""

    device = "CPU"

    def obstacle(self) -> str | None:
        """None where products of bytes are exact and fast, else the reason."""
        return None if cpu.products_are_exact() else OBSTACLE

    def features(self) -> tuple[str, ...]:
        """Relevant instruction sets."""
        return cpu.features()

    def best_dtype(self) -> torch.dtype:
        """bfloat16 where the CPU computes in it."""
        native_bfloat16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
        return torch.bfloat16 if native_bfloat16 else torch.float32

    def attention(self, dtype: torch.dtype) -> tuple[str, Callable[..., Tensor]]:
        """Our kernel in bfloat16, if it was built; torch's otherwise."""
        if dtype == torch.float32:
            return "torch", reference_attention
        kernels = native.kernels() if dtype == torch.bfloat16 else None
        if kernels is None or not kernels.attention:
            return "torch", fused_attention
        return "our kernel, on AMX" if kernels.tile_attention else "our kernel", fused_attention

    def offset(self, largest: int) -> int | None:
        """None: oneDNN multiplies unsigned codes."""
        return None

    def quantize(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor, Tensor, Tensor],
        step: Tensor,
        largest: int,
        padding: list[int],
        offset: int | None,
        spoilt: Tensor | None = None,
    ) -> Tensor:
        """Quantize in one pass; without ``spoilt`` by an operator that can be traced."""
        codes: Tensor
        if spoilt is None:
            codes = quantize(x, *tables, step, largest, padding, offset)
        else:
            codes = quantize.marking(x, *tables, step, largest, padding, offset, spoilt)
        return codes

    def quantize_gated(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor, Tensor, Tensor],
        step: Tensor,
        largest: int,
        offset: int | None,
        spoilt: Tensor | None = None,
    ) -> Tensor:
        """Quantize in one pass; without ``spoilt`` by an operator that can be traced."""
        codes: Tensor
        if spoilt is None:
            codes = quantize_gated(x, *tables, step, largest, offset)
        else:
            codes = quantize_gated.marking(x, *tables, step, largest, offset, spoilt)
        return codes

    def weight(self, layer: PackedLayer, folded: Tensor, factor: Tensor) -> ProductWeight:
        """The folded weight in tiles, in oneDNN's layout if that is exact, or as it is."""
        geometry = layer.geometry
        conv = geometry if isinstance(geometry, ConvGeometry) else None
        if cpu.has_tile_products() and (conv is None or conv.groups == 1):
            return TiledWeight(folded, factor, geometry)
        largest = max(int(folded.max()), -int(folded.min()))
        exact = largest <= cpu.largest_weight_of_onednn()
        if exact and (conv is None or onednn.convolves(conv.stride)):
            return OneDNNWeight(folded, factor, geometry)
        return PlainWeight(folded, factor, geometry)


def laid_out(folded: Tensor, geometry: Geometry) -> Tensor:
    """An int8 weight ``[out, n]`` in oneDNN's layout."""
    if isinstance(geometry, ConvGeometry):
        weight = folded.view(geometry.weight_shape)
        stride, dilation = list(geometry.stride), list(geometry.dilation)
        return onednn.pack_conv2d(weight, stride, dilation, geometry.groups)
    return onednn.pack_linear(folded)
