"""Integer products on a GPU: s8 codes, 4-bit weights that stay packed in memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from dgq.inference.folding import fits, largest_exponent
from dgq.inference.layers import PackedLayer
from dgq.inference.products.gpu_weights import ByteWeight, NibbleWeight, nibbles_of
from dgq.inference.products.products import AloneWeight, Products, ProductWeight
from dgq.ops import gpu, pad, quantize, reference, residual_fusion
from dgq.ops.copy_engine import has_copy_engine

PACKED_BITS = 4
"""Most bits with which two codes share a byte."""

LARGEST_SIGNED = 127


class GpuProducts(Products):
    """Products by Triton kernels, attention by torch's fused ones.

    Args:
        device: device of the UNet.
    """

    device = "GPU"
    compiles_norms = True

    def __init__(self, device: torch.device) -> None:
        self.place = device

    def obstacle(self) -> str | None:
        """None if the kernels run on the device and are exact there, else the reason."""
        reason = gpu.why_not(self.place)
        if reason is None:
            residual_fusion.register()
        return reason

    def features(self) -> tuple[str, ...]:
        """The name and relevant features of the device."""
        return gpu.features(self.place)

    @property
    def copies_boxes(self) -> bool:
        """Whether the device has a copy engine, and kernels for it."""
        return has_copy_engine(self.place)

    def best_dtype(self) -> torch.dtype:
        """bfloat16, which tensor cores multiply and which has the range of float32."""
        return torch.bfloat16

    def attention(self, dtype: torch.dtype) -> tuple[str, Callable[..., Tensor]]:
        """Torch's attention."""
        return "torch", reference.attention

    def offset(self, largest: int) -> int | None:
        """0, or 128 for codes beyond int8: tensor cores multiply signed codes."""
        return 0 if largest <= LARGEST_SIGNED else LARGEST_SIGNED + 1

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
        """Quantize in one pass; under ``torch.compile`` in plain torch, fused with what precedes.

        When compiled, padding is a separate pass: the compiler would not fuse across it, and would
        write and read a float32 for each element instead.
        """
        if not torch.compiler.is_compiling():
            codes: Tensor = quantize(x, *tables, step, largest, padding, offset)
            return codes
        # A norm's output may not be channels last; codes made in that order and laid out again are
        # slow.
        codes = reference.quantize(x, *tables, step, largest, [], offset).contiguous()
        if not any(padding):
            return codes
        _, _, zero_point, factor = tables
        padded: Tensor = pad(codes, zero_point, factor, step, largest, padding, offset)
        return padded

    def weight(self, layer: PackedLayer, folded: Tensor, factor: Tensor) -> ProductWeight:
        """The weight packed if it has at most 4 bits, else folded."""
        if layer.weight_bits <= PACKED_BITS:
            return NibbleWeight(nibbles_of(layer, factor), layer.geometry, self.copies_boxes)
        return ByteWeight(folded, factor, layer.geometry, self.copies_boxes)

    def weight_alone(self, layer: PackedLayer) -> AloneWeight | None:
        """The packed weight if it has at most 4 bits and its exponents fit into bytes."""
        if layer.weight_bits > PACKED_BITS:
            return None
        factors = layer.group_factors(largest_exponent(layer.exponent), torch.int32)
        whole = layer.centred_codes().to(torch.int32) * factors
        if not fits(whole, 1):
            return None
        return NibbleWeight(nibbles_of(layer, None), layer.geometry)
