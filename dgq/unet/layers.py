"""Linear and convolution layers with a quantized input and a quantized weight."""

from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from dgq.quantizers.activations import activation_quantizer
from dgq.quantizers.learnable_output import LearnableOutput
from dgq.quantizers.range_quantizer import RangeQuantizer
from dgq.quantizers.weight_quantizer import WeightQuantizer
from dgq.settings import FLOAT_BITS, ActivationSettings, WeightSettings, operand_bits
from dgq.unet.context import QuantizationContext
from dgq.unet.readers import Reader


class QuantizedLayer(Reader, nn.Module):
    """What the two quantized layers share; mixed into ``nn.Linear`` and ``nn.Conv2d``.

    With quantization switched off, a layer computes exactly what the stock layer does. If several
    layers read one tensor, their ``input_quantizer`` is None and their owner quantizes the tensor
    once.
    """

    context: QuantizationContext
    weight_quantizer: WeightQuantizer | None
    input_quantizer: RangeQuantizer | None
    learnable_output: LearnableOutput | None
    activation_bits: int

    def adopt_(
        self,
        stock: nn.Linear | nn.Conv2d,
        weights: WeightSettings,
        activations: ActivationSettings,
        context: QuantizationContext,
        shared_input: bool,
    ) -> None:
        """Take the parameters of the stock layer and make the quantizers."""
        self.register_parameter("weight", cast(nn.Parameter, stock.weight))
        self.register_parameter("bias", cast(nn.Parameter | None, stock.bias))
        self.context = context
        self.weight_quantizer = (
            None
            if operand_bits(weights.n_bits) == FLOAT_BITS
            else WeightQuantizer(weights, stock.weight.shape)
        )
        self.input_quantizer = (
            None if shared_input else activation_quantizer(activations, context, padded=pads(stock))
        )
        self.learnable_output = None if self.weight_quantizer is None else LearnableOutput()
        self.activation_bits = operand_bits(activations.n_bits)
        self.train(stock.training)

    @property
    def weight_bits(self) -> int:
        """Bits of the weight codes, or FLOAT_BITS."""
        return (
            FLOAT_BITS if self.weight_quantizer is None else self.weight_quantizer.settings.n_bits
        )

    @property
    def _bias(self) -> Tensor | None:
        return cast(Tensor | None, self.bias)

    def operands(
        self, x: Tensor, quantized: Tensor | None = None, of: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, weight and bias for the current mode."""
        if quantized is None and self.input_quantizer is not None:
            x = self.input_quantizer(x)
        else:
            x = self.given(x, quantized, of)
        if self.weight_quantizer is not None and self.context.weights:
            weight, bias = self.weight_quantizer(self._bias)
            return x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        return x, cast(Tensor, self.weight), self._bias

    def corrected(self, output: Tensor) -> Tensor:
        """The layer's output, with a gain and a shift while they are being learned."""
        learnable = self.learnable_output
        if learnable is None or not learnable.active or not self.context.weights:
            return output
        corrected: Tensor = learnable(output)
        return corrected

    def start_learning_(self) -> None:
        """Begin learning the rounding of this layer's weight, from nearest rounding."""
        if self.weight_quantizer is not None:
            self.weight_quantizer.start_learning_(cast(Tensor, self.weight).detach().float())

    def harden_(self) -> None:
        """End the learning and keep only packed codes."""
        if self.weight_quantizer is not None:
            self.weight_quantizer.harden_(self._bias)

    def absorb_(self, multiple: Tensor) -> None:
        """Multiply the weight by multiples of its input's channels; codes are rounded to nearest.

        Args:
            multiple: ``[channels]``, or ``[1]`` for all.
        """
        assert self.weight_quantizer is not None
        weight = cast(Tensor, self.weight).detach().float()
        channels = self.in_features if isinstance(self, nn.Linear) else self.in_channels
        self.weight_quantizer.absorb_(weight, multiple.expand(cast(int, channels)))

    def start_learning_output_(self, moving_codes: bool) -> None:
        """Begin learning a gain and a shift of the output of a hardened layer.

        Args:
            moving_codes: learn which codes of the weight move, too.
        """
        if self.weight_quantizer is None or self.learnable_output is None:
            return
        self.learnable_output.start_(self.weight_quantizer.scale, self._bias is not None)
        if moving_codes:
            weight = cast(Tensor, self.weight).detach().float()
            self.weight_quantizer.start_moving_codes_(weight)

    def harden_output_(self, keep: bool) -> None:
        """End the learning that ``start_learning_output_`` began.

        Args:
            keep: apply the result to codes, scale and bias; otherwise restore these.
        """
        if self.weight_quantizer is None or self.learnable_output is None:
            return
        if keep:
            self.weight_quantizer.harden_codes_()
            self.weight_quantizer.correct_(self.learnable_output)
        self.weight_quantizer.learnable_codes.stop_()
        self.learnable_output.stop_()


class QuantLinear(QuantizedLayer, nn.Linear):
    """``nn.Linear`` with quantized input and weight."""

    def __init__(
        self,
        stock: nn.Linear,
        weights: WeightSettings,
        activations: ActivationSettings,
        context: QuantizationContext,
        shared_input: bool = False,
    ) -> None:
        nn.Linear.__init__(self, stock.in_features, stock.out_features, device="meta")
        self.adopt_(stock, weights, activations, context, shared_input)

    def forward(
        self, input: Tensor, quantized: Tensor | None = None, of: Tensor | None = None
    ) -> Tensor:
        """``[..., in_features] -> [..., out_features]``."""
        if quantized is None and self.projection is not None:
            return self.projection.alone(partial(QuantLinear.forward, self), input)
        return self.corrected(F.linear(*self.operands(input, quantized, of)))


class QuantConv2d(QuantizedLayer, nn.Conv2d):
    """``nn.Conv2d`` with quantized input and weight."""

    def __init__(
        self,
        stock: nn.Conv2d,
        weights: WeightSettings,
        activations: ActivationSettings,
        context: QuantizationContext,
        shared_input: bool = False,
    ) -> None:
        nn.Conv2d.__init__(
            self,
            stock.in_channels,
            stock.out_channels,
            cast(tuple[int, int], stock.kernel_size),
            cast(tuple[int, int], stock.stride),
            cast(tuple[int, int] | str, stock.padding),
            cast(tuple[int, int], stock.dilation),
            stock.groups,
            padding_mode=stock.padding_mode,
            device="meta",
        )
        self.adopt_(stock, weights, activations, context, shared_input)

    def forward(self, input: Tensor, quantized: Tensor | None = None) -> Tensor:
        """``[batch, in_channels, height, width] -> [batch, out_channels, ...]``."""
        x, weight, bias = self.operands(input, quantized)
        return self.corrected(self._conv_forward(x, weight, bias))


def pads(layer: nn.Linear | nn.Conv2d) -> bool:
    """Whether a layer pads its input with zeros."""
    return isinstance(layer, nn.Conv2d) and layer.padding not in ((0, 0), "valid")


def quantized_layers(module: nn.Module) -> dict[str, QuantizedLayer]:
    """All quantized layers at or below a module, by name."""
    return {n: m for n, m in module.named_modules() if isinstance(m, QuantizedLayer)}
