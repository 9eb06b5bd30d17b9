"""The interface of a kind of device on which layers multiply integers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.inference.channel_input import ChannelInput, MakesCodes
from dgq.inference.layers import PackedLayer
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.unet.geometry import Geometry


class ProductWeight(ABC):
    """A weight as the kernels of a device read it; never changed, so copies share it."""

    geometry: Geometry

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """What it holds in memory, by name."""

    @property
    @abstractmethod
    def factor(self) -> Tensor | None:
        """Factor of the weights that meet each input channel, integers ``[in]``; None for 1."""

    @property
    def shift(self) -> Tensor | None:
        """Bits by which each group of inputs was shifted, uint8 ``[out, groups]``.

        None if the weight does not hold them.
        """
        return None

    @abstractmethod
    def multiply(self, x: QuantizedTensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
        """The layer's output, images channels last.

        Args:
            x: padded, images channels last.
            weight_scale: ``[out]``.
            bias: ``[steps, out]``, including the contribution of zero points.
        """

    def multiply_gated(
        self, x: QuantizedTensor, weight_scale: Tensor, bias: Tensor, reader: ChannelInput
    ) -> QuantizedTensor:
        """Quantized ``value * gelu(gate)`` of the halves of a linear layer's output.

        Args:
            x: ``[batch, ..., in]``.
            weight_scale: ``[out]``.
            bias: ``[steps, out]``, including the contribution of zero points.
            reader: the input quantizer of the layer that reads the result.
        """
        return reader.gated_codes(self.multiply(x, weight_scale, bias))

    @abstractmethod
    def whole_numbers(self) -> Tensor:
        """The codes without zero points, times all factors: int8 ``[out, n]``."""

    def stacked(self, others: Sequence["ProductWeight"]) -> "ProductWeight | None":
        """The weight of this linear layer stacked with those of others.

        None if the kernels cannot multiply them at once, or would not be faster.

        Args:
            others: of linear layers that read the same quantized tensor.
        """
        return None

    def rows(self, rows: slice) -> "ProductWeight":
        """The weight of some output channels of a stacked one, in the same memory."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> "ProductWeight":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise DGQError(
            "a UNet that was prepared for a device is not pickled: save_pretrained it and load it "
            "where it runs, or let it run in floating point first: dgq.prepare_(unet, 'float')"
        )


class Products(MakesCodes):
    """How layers multiply on one kind of device."""

    device: str
    """Name for messages."""
    compiles_norms = False
    """Whether group norms are compiled in a form of their own (``dgq.inference.group_norm``)."""

    @abstractmethod
    def obstacle(self) -> str | None:
        """Why no layer can multiply integers here, or None."""

    @abstractmethod
    def features(self) -> tuple[str, ...]:
        """Features of the device that decide how fast the products are."""

    @abstractmethod
    def best_dtype(self) -> torch.dtype:
        """Default dtype of everything else."""

    @abstractmethod
    def attention(self, dtype: torch.dtype) -> tuple[str, Callable[..., Tensor]]:
        """The name of the attention kernel, in a word or two, and its function."""

    @abstractmethod
    def weight(self, layer: PackedLayer, folded: Tensor, factor: Tensor) -> ProductWeight:
        """The weight of a layer that multiplies integers.

        Args:
            layer: in its stored form.
            folded: its whole numbers times all factors, int8 ``[out, n]``.
            factor: factor of the weights that meet each input channel, ``[channels]``.
        """

    def weight_alone(self, layer: PackedLayer) -> "AloneWeight | None":
        """The weight of a layer whose activations are not quantized; None without such kernels."""
        return None


class AloneWeight(ProductWeight):
    """A weight that is multiplied with floating point."""

    @abstractmethod
    def multiply_float(self, x: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
        """The layer's output, images channels last as ``x`` is; bias ``[out]``."""
