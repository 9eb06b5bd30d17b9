"""Our own CPU kernels, and the tensors that they accept.

Without a working compiler, the operators use torch alone: slower, with the same values.
"""

import ctypes
import logging
import subprocess
from collections.abc import Sequence
from functools import cache
from math import prod

import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.ops import compiling, tile_layout
from dgq.ops.shapes import convolved

READ = (torch.float32, torch.bfloat16)
"""Dtypes that the kernels quantize and find ranges of."""

NO_MEMORY = "no memory for the sums of an integer product"

POINT = (1, 1, 1, 1, 1, 1)
"""Kernel, stride and dilation of a linear layer."""

log = logging.getLogger(__name__)


class Kernels:
    """The compiled kernels.

    Args:
        library: the library with the functions of ``compiling.SOURCES``.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.has_attention = bool(library.dgq_has_attention())
        self.has_tiles = bool(library.dgq_has_tiles())
        self.has_products = bool(library.dgq_has_products())
        self.has_tile_products = bool(library.dgq_has_tile_products())

    def can_attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float
    ) -> bool:
        """Whether ``attention`` accepts this input: bfloat16, on a CPU that multiplies it.

        False where sizes do not agree, so that torch raises the error.
        """
        batch, _, width = query.shape
        of_same_size = key.shape == value.shape and key.shape[::2] == (batch, width)
        sizes_agree = of_same_size and width % heads == 0 and key.shape[1] > 0
        in_bfloat16 = all(x.dtype == torch.bfloat16 for x in (query, key, value))
        return self.has_attention and in_bfloat16 and sizes_agree and scale >= 0

    def quantize(
        self,
        x: Tensor,
        scale: Tensor,
        multiple: Tensor,
        zero_point: Tensor,
        factor: Tensor,
        step: Tensor,
        largest: int,
        padding: list[int],
        spoilt: Tensor | None = None,
    ) -> Tensor:
        """As ``reference.quantize``."""
        x = x.contiguous()
        step = step if scale.shape[0] > 1 else step.new_zeros(1)
        tables = [t.contiguous() for t in (scale, multiple, zero_point, factor, step)]
        batch, channels = x.shape[0], x.shape[-1]
        height, width = x.shape[1:3] if x.ndim == 4 else (1, x[0].numel() // channels)
        pads = padding or [0, 0]
        shape = list(x.shape)
        if any(pads):
            shape = [batch, height + 2 * pads[0], width + 2 * pads[1], channels]
        codes = x.new_empty(shape, dtype=torch.uint8)
        self._library.dgq_quantize(
            *(_address(x), ctypes.c_int(x.dtype == torch.bfloat16), *map(_address, tables)),
            *_sizes(step.shape[0], batch, height, width, channels, *pads),
            *(ctypes.c_float(largest), _address(codes), _address(spoilt)),
        )
        return codes

    def quantize_gated(
        self,
        x: Tensor,
        scale: Tensor,
        multiple: Tensor,
        zero_point: Tensor,
        factor: Tensor,
        step: Tensor,
        largest: int,
        spoilt: Tensor | None = None,
    ) -> Tensor:
        """As ``reference.quantize_gated``, up to a code at values midway between two."""
        x = x.contiguous()
        step = step if scale.shape[0] > 1 else step.new_zeros(1)
        tables = [t.contiguous() for t in (scale, multiple, zero_point, factor, step)]
        batch, channels = x.shape[0], multiple.shape[0]
        codes = x.new_empty((*x.shape[:-1], channels), dtype=torch.uint8)
        self._library.dgq_quantize_gated(
            *(_address(x), ctypes.c_int(x.dtype == torch.bfloat16), *map(_address, tables)),
            *_sizes(step.shape[0], batch, x.shape[1:-1].numel(), channels),
            *(ctypes.c_float(largest), _address(codes), _address(spoilt)),
        )
        return codes

    def channel_ranges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As ``reference.channel_ranges``, for float32 and bfloat16."""
        x = x.contiguous()
        batch, channels = x.shape[0], x.shape[-1]
        low, high = (x.new_empty(batch, channels, dtype=torch.float32) for _ in range(2))
        self._library.dgq_channel_ranges(
            *(_address(x), ctypes.c_int(x.dtype == torch.bfloat16)),
            *_sizes(batch, x[0].numel() // channels, channels),
            *(_address(low), _address(high)),
        )
        return low, high

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float
    ) -> Tensor:
        """As ``reference.attention``, for bfloat16, where ``can_attend``.

        A key that is not finite spoils all queries of its head.
        """
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        out = torch.empty_like(query)
        batch, n_queries, width = query.shape
        no_memory = self._library.dgq_attention(
            *(_address(query), _address(key), _address(value)),
            *_sizes(batch, heads, n_queries, key.shape[1], width // heads),
            *(ctypes.c_float(scale), ctypes.c_int(self.has_tiles), _address(out)),
        )
        if no_memory:
            raise MemoryError("no memory for the keys and values of attention")
        return out

    def convolve(
        self,
        codes: Tensor,
        weight: Tensor,
        weight_scale: Tensor,
        scale: Tensor,
        bias: Tensor,
        step: Tensor,
        stride: list[int],
        dilation: list[int],
    ) -> Tensor:
        """As ``reference.int_conv2d``, in float32, where ``can_convolve``."""
        out_channels, _, *kernel = weight.shape
        out_size = convolved(codes.shape, kernel, stride, [0, 0], dilation)
        out = codes.new_empty((*out_size, out_channels), dtype=torch.float32)
        codes, weight = codes.contiguous(), weight.contiguous(memory_format=torch.channels_last)
        tables = [table.contiguous() for table in (weight_scale, scale, bias, step)]
        no_memory = self._library.dgq_convolve(
            *map(_address, (codes, weight, *tables)),
            *_sizes(scale.shape[0], bias.shape[0], step.shape[0]),
            *(_array(*codes.shape, *out.shape[1:], *kernel, *stride, *dilation), _address(out)),
        )
        if no_memory:
            raise MemoryError(NO_MEMORY)
        return out

    def multiply_tiles(
        self,
        codes: Tensor,
        weight: Tensor,
        weight_scale: Tensor,
        scale: Tensor,
        bias: Tensor,
        step: Tensor,
        kernel: list[int],
        stride: list[int],
        dilation: list[int],
        dtype: torch.dtype,
    ) -> Tensor:
        """As ``reference.int_conv2d``, for a weight in tiles, where ``can_multiply_tiles``.

        Args:
            dtype: of the output, one of ``READ``.
        """
        out_size = convolved(codes.shape, kernel, stride, [0, 0], dilation)
        out = codes.new_empty((*out_size, weight_scale.shape[0]), dtype=dtype)
        given = (codes, weight, weight_scale, scale, bias, step)
        operands = [operand.contiguous() for operand in given]
        no_memory = self._library.dgq_multiply_tiles(
            *map(_address, operands),
            *_sizes(scale.shape[0], bias.shape[0], step.shape[0]),
            _array(*codes.shape, *out.shape[1:], *kernel, *stride, *dilation),
            *(ctypes.c_int(dtype == torch.bfloat16), _address(out)),
        )
        if no_memory:
            raise MemoryError(NO_MEMORY)
        return out

    def multiply_tiles_gated(
        self,
        codes: Tensor,
        weight: Tensor,
        weight_scale: Tensor,
        scale: Tensor,
        bias: Tensor,
        step: Tensor,
        next_scale: Tensor,
        multiple: Tensor,
        zero_point: Tensor,
        factor: Tensor,
        largest: int,
    ) -> Tensor:
        """As ``reference.int_linear_gated``, for a weight in tiles, up to values midway.

        Args:
            codes: ``[batch, 1, tokens, in]``; those returned have this shape, too.
        """
        out = codes.new_empty((*codes.shape[:-1], multiple.shape[0]))
        given = (codes, weight, weight_scale, scale, bias, step)
        operands = [operand.contiguous() for operand in given]
        tables = [t.contiguous() for t in (next_scale, multiple, zero_point, factor)]
        no_memory = self._library.dgq_multiply_tiles_gated(
            *map(_address, operands),
            *_sizes(scale.shape[0], bias.shape[0], step.shape[0]),
            _array(*codes.shape, *codes.shape[1:3], weight_scale.shape[0], *POINT),
            *(*map(_address, tables), *_sizes(next_scale.shape[0])),
            *(ctypes.c_float(largest), _address(out)),
        )
        if no_memory:
            raise MemoryError(NO_MEMORY)
        return out


def can_convolve(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    dilation: list[int],
) -> bool:
    """Whether the compiled kernels multiply tensors of these dtypes and sizes.

    The kernels check nothing. False where sizes do not agree, so that torch raises the error.
    """
    return (
        _are_operands(codes, weight, weight_scale, scale, bias, step)
        and weight.shape[:2] == (weight_scale.shape[0], codes.shape[3])
        and sums_fit(weight[0].numel())
        and _has_windows(codes, weight.shape[2:], dilation)
    )


def can_multiply_tiles(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    kernel: list[int],
    dilation: list[int],
) -> bool:
    """The same for a weight in tiles, of ``kernel``."""
    n_out, n_in = weight_scale.shape[0], prod(kernel) * codes.shape[3]
    return (
        _are_operands(codes, weight, weight_scale, scale, bias, step)
        and weight.shape == tile_layout.shape(n_out, n_in)
        and sums_fit(n_in)
        and _has_windows(codes, kernel, dilation)
    )


def can_multiply_tiles_gated(
    operands: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
    tables: tuple[Tensor, Tensor, Tensor, Tensor],
) -> bool:
    """The same for a linear layer with a gate, and the tables of its output's quantizer."""
    n_out, step = operands[2].shape[0], operands[5]
    return (
        can_multiply_tiles(*operands, [1, 1], [1, 1])
        and n_out % (2 * tile_layout.LANES) == 0
        and _make_codes(n_out // 2, *tables, step)
    )


def _are_operands(
    codes: Tensor, weight: Tensor, weight_scale: Tensor, scale: Tensor, bias: Tensor, step: Tensor
) -> bool:
    """Whether dtypes are right, nothing is empty, and tables have a row for each step."""
    return (
        (codes.dtype, weight.dtype, step.dtype) == (torch.uint8, torch.int8, torch.int64)
        and all(table.dtype == torch.float32 for table in (weight_scale, scale, bias))
        and codes.numel() > 0
        and weight.numel() > 0
        and bias.shape[1:] == weight_scale.shape
        and step.shape in ((1,), codes.shape[:1])
        and scale.ndim == 1
        and all(_has_rows(table, step) for table in (scale, bias))
    )


def _has_windows(codes: Tensor, kernel: Sequence[int], dilation: list[int]) -> bool:
    windows = zip(codes.shape[1:3], kernel, dilation, strict=True)
    return all(n > d * (k - 1) for n, k, d in windows)


def sums_fit(inputs: int) -> bool:
    """Whether 32 bits hold sums of this many products of a byte code and a byte weight."""
    return 255 * 128 * inputs < 2**31


def _has_rows(table: Tensor, step: Tensor) -> bool:
    """Whether a table has a row for each step; a single row serves all."""
    n = table.shape[0]
    return n == 1 or all(0 <= row < n for row in step.tolist())


def can_quantize(
    x: Tensor,
    channels: int,
    scale: Tensor,
    multiple: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
) -> bool:
    """Whether the compiled kernels quantize these tensors, to this number of channels.

    The kernels check nothing. False where sizes or steps do not agree, so that torch raises the
    error.
    """
    return (
        x.dtype in READ
        and x.numel() > 0
        and step.shape in ((1,), x.shape[:1])
        and _make_codes(channels, scale, multiple, zero_point, factor, step)
    )


def _make_codes(
    channels: int, scale: Tensor, multiple: Tensor, zero_point: Tensor, factor: Tensor, step: Tensor
) -> bool:
    """Whether tables are those of a quantizer of this number of channels, at all steps."""
    return (
        (zero_point.dtype, step.dtype) == (torch.int16, torch.int64)
        and scale.dtype == multiple.dtype == factor.dtype == torch.float32
        and multiple.shape == factor.shape == (channels,)
        and zero_point.shape == (*scale.shape, channels)
        and _has_rows(scale, step)
    )


@cache
def kernels() -> Kernels | None:
    """The compiled kernels, compiled at the first call; ``None`` if that fails."""
    compiler = compiling.compiler()
    if compiler is None:
        names = ", ".join(compiling.COMPILERS)
        log.warning("no C++ compiler (%s): slower kernels of torch are used", names)
        return None
    try:
        return Kernels(compiling.loaded(compiler))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("our CPU kernels cannot be compiled (%s): those of torch are used", error)
        return None


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    try:
        return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
    except RuntimeError as error:  # one that stands for others, as in a transform of torch.func
        raise DGQError(
            "integer products take part in no transform of torch.func (vmap, jvp, grad): load the "
            "model with execution='float'"
        ) from error


def _array(*values: int) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def _sizes(*values: int) -> tuple[ctypes.c_int64, ...]:
    return tuple(map(ctypes.c_int64, values))
