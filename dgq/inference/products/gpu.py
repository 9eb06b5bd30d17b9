"""Integer products on a GPU: s8 codes, 4-bit weights that stay packed in memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from dgq.inference.folding import fits, group_factors, largest_exponent
from dgq.inference.layers import PackedLayer
from dgq.inference.products.gpu_weights import ByteWeight, NibbleWeight, nibbles_of
from dgq.inference.products.products import AloneWeight, Products, ProductWeight
from dgq.ops import gpu, pad, quantize, reference, residual_fusion
from dgq.ops.copy_engine import has_copy_engine

PACKED_BITS = 4
"""Up to which two codes share a byte."""

LARGEST_SIGNED = 127


class GpuProducts(Products):
    """By Triton's kernels, attention by torch's fused ones.

    Args:
        device: of the UNet.
    """

    device = "GPU"
    compiles_norms = True

    def __init__(self, device: torch.device) -> None:
        self.place = device

    def obstacle(self) -> str | None:
        """None where the kernels run and are exact."""
        reason = gpu.why_not(self.place)
        if reason is None:
            residual_fusion.register()
        return reason

    def features(self) -> tuple[str, ...]:
        """Its name, and what it can."""
        return gpu.features(self.place)

    @property
    def copies_boxes(self) -> bool:
        """Whether the device has a copy engine, and kernels for it."""
        return has_copy_engine(self.place)

    def best_dtype(self) -> torch.dtype:
        """What tensor cores multiply, with the range of float32."""
        return torch.bfloat16

    def attention(self, dtype: torch.dtype) -> tuple[str, Callable[..., Tensor]]:
        """Torch's."""
        return "torch", reference.attention

    def offset(self, largest: int) -> int | None:
        """Tensor cores multiply codes with a sign."""
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
        """In one pass; under ``torch.compile`` in plain torch, fused with what precedes it.

        There padding is a pass of its own: a compiler would not fuse across it, and write and read
        a float32 for each element instead.
        """
        if not torch.compiler.is_compiling():
            codes: Tensor = quantize(x, *tables, step, largest, padding, offset)
            return codes
        # A norm's output may lie channel by channel: made so and laid out again, codes are slow.
        codes = reference.quantize(x, *tables, step, largest, [], offset).contiguous()
        if not any(padding):
            return codes
        _, _, zero_point, factor = tables
        padded: Tensor = pad(codes, zero_point, factor, step, largest, padding, offset)
        return padded

    def weight(self, layer: PackedLayer, folded: Tensor, factor: Tensor) -> ProductWeight:
        """Packed up to 4 bits, else folded."""
        if layer.weight_bits <= PACKED_BITS:
            return NibbleWeight(nibbles_of(layer, factor), layer.geometry, self.copies_boxes)
        return ByteWeight(folded, factor, layer.geometry, self.copies_boxes)

    def weight_alone(self, layer: PackedLayer) -> AloneWeight | None:
        """Packed, where it has at most 4 bits and its exponents fit into bytes."""
        if layer.weight_bits > PACKED_BITS:
            return None
        factors = group_factors(layer.group_exponents(), largest_exponent(layer.exponent))
        whole = layer.centred_codes().to(torch.int32) * factors
        if not fits(whole, 1):
            return None
        return NibbleWeight(nibbles_of(layer, None), layer.geometry)
