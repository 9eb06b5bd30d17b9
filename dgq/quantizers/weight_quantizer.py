"""Quantizer of a layer's weight: learnable rounding at first, packed codes afterwards."""

import torch
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.math.dequantization import dequantize, input_factors
from dgq.math.exponent_search import group_exponents
from dgq.math.multiples import of_weights
from dgq.math.packing import pack_codes, unpack_codes
from dgq.math.range_search import weight_parameters, weight_range
from dgq.math.rounding import hard_rounding, rounding_logits
from dgq.quantizers.buffers import SizedByCheckpoint
from dgq.quantizers.learnable import Learnable
from dgq.quantizers.learnable_codes import LearnableCodes
from dgq.quantizers.learnable_output import LearnableOutput
from dgq.quantizers.soft_weight import soft_weight
from dgq.settings import WeightSettings


class LearnableRounding(Learnable):
    """Learnable parameters of one weight ``[out, n]``.

    ``logits [out, n]`` of the rounding; ``log_gain [out]`` of the scale; ``bias_shift [out]``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.empty(0))
        self.log_gain = nn.Parameter(torch.empty(0))
        self.bias_shift = nn.Parameter(torch.empty(0))

    def start_(self, ratio: Tensor) -> None:
        """Start from nearest rounding of weights ``[out, n]`` in units of their scale."""
        self.logits.data = rounding_logits(ratio)
        self.log_gain.data = ratio.new_zeros(ratio.shape[0])
        self.bias_shift.data = ratio.new_zeros(ratio.shape[0])
        self.logits.requires_grad_(True)

    @property
    def is_soft(self) -> bool:
        """Whether the rounding is being learned; else it is hard."""
        return self.logits.requires_grad


class WeightQuantizer(SizedByCheckpoint):
    """Affine quantization of a weight ``[out, ...]``, per output channel or in groups of inputs.

    A group's scale is that of its output channel times ``2^-exponent``. A weight that absorbs the
    multiples of its input's channels is multiplied by them first. After ``harden_`` it holds all
    that a packed checkpoint needs: packed codes, scale, zero point, exponents and multiples if any,
    and bias.

    Args:
        settings: bits, groups and range search.
        shape: shape of the weight.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    exponent: Tensor
    multiple: Tensor
    bias: Tensor

    def __init__(self, settings: WeightSettings, shape: torch.Size) -> None:
        super().__init__()
        self.settings = settings
        self.shape = shape
        self.learnable = LearnableRounding()
        self.learnable_codes = LearnableCodes()
        self._floor: Tensor | None = None
        self._learning_factor: Tensor | None = None
        self.register_buffer("codes", torch.empty(0, dtype=torch.uint8))
        for name in ("scale", "zero_point", "bias"):
            self.register_buffer(name, torch.empty(0))
        if settings.has_exponents:
            self.register_buffer("exponent", torch.empty(0, dtype=torch.uint8))
        if settings.absorbs:
            self.register_buffer("multiple", torch.empty(0, dtype=torch.int16))

    def forward(self, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The dequantized weight, and the matching bias.

        Args:
            bias: the layer's full-precision bias, which learning may shift.

        Raises:
            DGQError: if it was never started and has no codes.
        """
        if self.learnable.active:
            return self._learning(bias)
        if self.codes.numel() == 0:
            raise DGQError("this layer has no quantized weight yet: calibrate or load first")
        if self.learnable_codes.active:
            weight = self._weight_of(self._moved_codes(), self.scale)
            return weight, self.bias if self.bias.numel() else None
        bits, exponent = self.settings.n_bits, getattr(self, "exponent", None)
        weight = dequantize(
            self.codes,
            self.scale,
            self.zero_point,
            bits,
            self.n_inputs,
            exponent,
            self.settings.group_size,
            self._absorbed,
        )
        return weight.view(self.shape), self.bias if self.bias.numel() else None

    @torch.no_grad()
    def start_learning_(self, weight: Tensor) -> None:
        """Search the range of a weight ``[out, ...]``, and start the rounding from nearest.

        Raises:
            DGQError: for a weight that is not finite.
        """
        rows, settings = weight.flatten(1), self.settings
        if settings.absorbs and self.multiple.numel() == 0:
            self.multiple = torch.ones(1, dtype=torch.int16, device=weight.device)
        absorbed = self._absorbed
        if absorbed is not None:
            rows = rows * absorbed
        if settings.has_exponents:
            self.exponent = group_exponents(rows, settings.group_size, settings.max_exponent)
            rows = rows / self._factor
        ratio = self._search_range_(rows)
        self._floor = ratio.floor() + self.zero_point[:, None]
        self._learning_factor = self._factors()
        self.learnable.start_(ratio)

    def _search_range_(self, rows: Tensor) -> Tensor:
        """Set scale and zero point of weights ``[out, n]``; returns these in units of the scale."""
        settings, bits = self.settings, self.settings.n_bits
        low, high = weight_range(rows, bits, settings.range_method, settings.symmetric)
        if not bool((high - low).isfinite().all()):
            raise DGQError(
                f"a weight of shape {tuple(self.shape)} has values that are not finite, or span "
                "more than float32 holds: restore the model"
            )
        self.scale, self.zero_point = weight_parameters(low, high, bits, settings.symmetric)
        return rows / self.scale[:, None]

    @torch.no_grad()
    def absorb_(self, weight: Tensor, multiple: Tensor) -> None:
        """Multiply by multiples ``[channels]``; a weight with codes is rounded to nearest again."""
        if torch.equal(self.multiple, multiple):
            return
        self.multiple = multiple.clone()
        if self.codes.numel() == 0:
            return
        ratio = self._search_range_(weight.flatten(1) * of_weights(multiple, self.shape))
        codes = (ratio.round() + self.zero_point[:, None]).clamp(0, self._largest)
        self.codes = pack_codes(codes, self.settings.n_bits)
        # The bias stays as learned: it is better than the stock one (docs/experiments.md, 19).

    @torch.no_grad()
    def harden_(self, bias: Tensor | None) -> None:
        """Fix rounding, scale and bias, pack the codes, and free what was learned."""
        learnable = self.learnable
        if not learnable.active:
            raise DGQError("there is no learned rounding to fix: call start_learning_ first")
        self.codes = pack_codes(self._hard_codes(), self.settings.n_bits)
        self.scale = self.scale * learnable.log_gain.exp()
        self.bias = torch.empty(0) if bias is None else bias + learnable.bias_shift
        learnable.stop_()
        self._floor = self._learning_factor = None

    @torch.no_grad()
    def start_moving_codes_(self, weight: Tensor) -> None:
        """Start learning which codes move, given the full-precision weight ``[out, ...]``."""
        position = weight.flatten(1) / self._scales(self.scale) + self.zero_point[:, None]
        self.learnable_codes.start_(position, self._unpacked_codes())

    @torch.no_grad()
    def harden_codes_(self) -> None:
        """Move the codes as learned."""
        if self.learnable_codes.active:
            self.codes = pack_codes(self._moved_codes(), self.settings.n_bits)
            self.learnable_codes.stop_()

    def _unpacked_codes(self) -> Tensor:
        codes = unpack_codes(self.codes, self.settings.n_bits, self.n_inputs)
        return codes.to(self.scale.dtype)

    def _moved_codes(self) -> Tensor:
        return self.learnable_codes.moved(self._unpacked_codes(), self.settings.n_bits)

    def _weight_of(self, codes: Tensor, scale: Tensor) -> Tensor:
        """The weight ``[out, ...]`` for codes ``[out, n]`` and scales ``[out]``."""
        return ((codes - self.zero_point[:, None]) * self._scales(scale)).view(self.shape)

    @torch.no_grad()
    def correct_(self, output: LearnableOutput) -> None:
        """Merge what was learned about the layer's output; the codes do not change."""
        if output.active:
            gain = output.log_gain.exp()
            self.scale = self.scale * gain
            if self.bias.numel():
                self.bias = self.bias * gain + output.shift

    def _learning(self, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight ``[out, ...]`` and bias as learned so far."""
        learnable = self.learnable
        scale = self.scale * learnable.log_gain.exp()
        if learnable.is_soft:
            assert self._floor is not None
            given = (self._floor, self.zero_point, scale, self._learning_factor, self._largest)
            weight = soft_weight(learnable.logits, *given).view(self.shape)
        else:
            weight = self._weight_of(self._hard_codes(), scale)
        return weight, None if bias is None else bias + learnable.bias_shift

    @property
    def n_inputs(self) -> int:
        """Weights of one output channel."""
        return self.shape[1:].numel()

    @property
    def _factor(self) -> Tensor:
        """``2^-exponent`` of every weight, ``[out, n]``."""
        return input_factors(self.exponent, self.settings.group_size, self.n_inputs)

    @property
    def _absorbed(self) -> Tensor | None:
        """The multiple of every weight, ``[1 or out, n]``; None where all are 1."""
        multiple = getattr(self, "multiple", None)
        if multiple is None or multiple.numel() < self.shape[1]:
            return None
        return of_weights(multiple, self.shape)

    def _scales(self, scale: Tensor) -> Tensor:
        """Scales of all weights, ``[out, 1]`` or ``[out, n]``, from those of their channels."""
        columns, absorbed = scale[:, None], self._absorbed
        if self.settings.has_exponents:
            columns = columns * self._factor
        return columns if absorbed is None else columns / absorbed

    def _factors(self) -> Tensor | None:
        """Each weight's scale over its channel's, ``[1 or out, n]``; None where all are 1."""
        if not self.settings.has_exponents and self._absorbed is None:
            return None
        return self._scales(self.scale.new_ones(1))

    @property
    def _largest(self) -> int:
        """The largest code."""
        largest: int = 2**self.settings.n_bits - 1
        return largest

    def _hard_codes(self) -> Tensor:
        """Codes ``clamp(floor(w / scale) + h + zero_point)`` of the hard rounding, ``[out, n]``."""
        assert self._floor is not None
        return (self._floor + hard_rounding(self.learnable.logits)).clamp(0, self._largest)
