"""Quantizers of attention scores, the softmax output, while a UNet is calibrated."""

import torch
from torch import Tensor, nn

from dgq.math.log_scores import log_quantize, log_quantize_but_start, log_quantize_live
from dgq.quantizers.activation_quantizer import ActivationQuantizer
from dgq.quantizers.observer import Ranges
from dgq.settings import (
    FLOAT_BITS,
    ActivationSettings,
    QuantizationSettings,
    ScoreSettings,
    operand_bits,
)
from dgq.unet.context import QuantizationContext
from dgq.unet.start_token import but_start


class LogScoreQuantizer(nn.Module):
    """Logarithmic quantization of scores under each sample's live maximum; holds no state.

    Args:
        n_bits: bits of the exponent.
        keep_start: pass the first key, the ``<start>`` token, in full precision.
        context: mode of the UNet; ``None`` quantizes always.
    """

    def __init__(
        self, n_bits: int, keep_start: bool, context: QuantizationContext | None = None
    ) -> None:
        super().__init__()
        self.n_bits = n_bits
        self.keep_start = keep_start
        self.context = context

    @property
    def active(self) -> bool:
        """Whether scores are needed now."""
        return self.context is None or self.context.activations

    def forward(self, scores: Tensor) -> Tensor:
        """Quantize softmaxed scores ``[batch, heads, queries, keys]``."""
        quantize = log_quantize_but_start if self.keep_start else log_quantize_live
        # In float32 whatever the input: logarithms of half precision round to the next power.
        return quantize(scores.float(), self.n_bits).to(scores.dtype)


class AffineScoreQuantizer(ActivationQuantizer):
    """Affine quantization of scores, one range for the whole tensor.

    Args:
        settings: bits of the scores.
        per_step: one range for each sampler step.
        keep_start: pass the first key, the ``<start>`` token, in full precision.
        context: mode and step of the UNet.
    """

    def __init__(
        self,
        settings: ScoreSettings,
        per_step: bool,
        keep_start: bool,
        context: QuantizationContext,
    ) -> None:
        super().__init__(
            ActivationSettings(settings.n_bits, n_groups=1, per_step=per_step),
            context,
            per_tensor=True,
        )
        self.keep_start = keep_start

    @property
    def active(self) -> bool:
        """Whether scores are needed now."""
        return self.context.activations or self.context.observing

    def forward(self, scores: Tensor) -> Tensor:
        """Quantize softmaxed scores ``[batch, heads, queries, keys]``."""
        return (
            but_start(super().forward, scores, -1) if self.keep_start else super().forward(scores)
        )


class CalibratedLogScoreQuantizer(AffineScoreQuantizer):
    """Logarithmic quantization under the largest score observed at each step in calibration.

    Args:
        settings: bits of the scores.
        per_step: one maximum for each sampler step.
        keep_start: pass the first key, the ``<start>`` token, in full precision.
        context: mode and step of the UNet.
    """

    def fit_ranges_(self, channels: Ranges, pixels: Ranges | None) -> None:
        """Keep the maxima, ``[steps, 1]``, as scales."""
        super().fit_ranges_(channels, pixels)
        self.scale = channels.high.amax(1, keepdim=True)
        self.zero_point = torch.zeros_like(self.scale, dtype=torch.int32)

    def quantize(self, x: Tensor) -> Tensor:
        """Powers of two under the maximum of the step."""
        maximum, _ = self.parameters_of(x)
        return log_quantize(x.float(), maximum.float(), self.settings.n_bits).to(x.dtype)


def score_quantizer(
    settings: QuantizationSettings, is_cross: bool, context: QuantizationContext
) -> nn.Module | None:
    """The quantizer of one attention's scores; ``None`` where they stay in full precision."""
    scores = settings.scores
    if operand_bits(scores.n_bits) == FLOAT_BITS:
        return None
    keep_start = is_cross and scores.keep_start_token
    arguments = (scores, settings.activations.per_step, keep_start, context)
    if score_method(scores, is_cross) == "affine":
        return AffineScoreQuantizer(*arguments)
    if scores.maximum == "calibrated":
        return CalibratedLogScoreQuantizer(*arguments)
    return LogScoreQuantizer(scores.n_bits, keep_start, context)


def score_method(scores: ScoreSettings, is_cross: bool) -> str:
    """The quantization method of one attention's scores."""
    return scores.cross_attention if is_cross else scores.self_attention
