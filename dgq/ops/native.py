"""Our own CPU kernels: their interface, and calls of them.

The kernels check nothing; ``operand_checks`` says which tensors they accept. Without a working
compiler, the operators use torch alone: slower, with the same values.
"""

import ctypes
import logging
import subprocess
from collections.abc import Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.ops import compiling
from dgq.ops.shapes import convolved

POINT = (1, 1, 1, 1, 1, 1)
"""Kernel, stride and dilation of a linear layer."""

_ADDRESS, _FLAG, _SIZE, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
_OPERANDS = (*[_ADDRESS] * 6, *[_SIZE] * 3, _ADDRESS)
"""Codes, weight, weight scale, scale, bias and step; rows of the last three; other sizes."""

_ARGUMENTS = {
    "dgq_quantize": (*[_ADDRESS] * 6, _FLAG, *[_SIZE] * 7, _FLOAT, *[_ADDRESS] * 2),
    "dgq_quantize_gated": (*[_ADDRESS] * 6, _FLAG, *[_SIZE] * 4, _FLOAT, *[_ADDRESS] * 2),
    "dgq_channel_ranges": (_ADDRESS, _FLAG, *[_SIZE] * 3, *[_ADDRESS] * 2),
    "dgq_attention": (*[_ADDRESS] * 3, *[_SIZE] * 5, _FLOAT, _FLAG, _ADDRESS),
    "dgq_convolve": (*_OPERANDS, _ADDRESS),
    "dgq_multiply_tiles": (*_OPERANDS, _FLAG, _ADDRESS),
    "dgq_multiply_tiles_gated": (*_OPERANDS, *[_ADDRESS] * 4, _SIZE, _FLOAT, _ADDRESS),
}

log = logging.getLogger(__name__)


class Kernels:
    """The compiled kernels.

    Args:
        library: the library with the functions of ``compiling.SOURCES``.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, arguments in _ARGUMENTS.items():
            getattr(library, name).argtypes = arguments
        self.has_attention = bool(library.dgq_has_attention())
        self.has_tiles = bool(library.dgq_has_tiles())
        self.has_products = bool(library.dgq_has_products())
        self.has_tile_products = bool(library.dgq_has_tile_products())

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
        """As ``reference.quantize``, where ``can_quantize``."""
        step = step if scale.shape[0] > 1 else step.new_zeros(1)
        inputs = _contiguous(x, scale, multiple, zero_point, factor, step)
        batch, channels = x.shape[0], x.shape[-1]
        height, width = x.shape[1:3] if x.ndim == 4 else (1, x[0].numel() // channels)
        pads = padding or [0, 0]
        shape = list(x.shape)
        if any(pads):
            shape = [batch, height + 2 * pads[0], width + 2 * pads[1], channels]
        codes = x.new_empty(shape, dtype=torch.uint8)
        self._library.dgq_quantize(
            *(*_addresses(*inputs), x.dtype == torch.bfloat16, step.shape[0]),
            *(batch, height, width, channels, *pads, largest, *_addresses(codes, spoilt)),
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
        step = step if scale.shape[0] > 1 else step.new_zeros(1)
        inputs = _contiguous(x, scale, multiple, zero_point, factor, step)
        batch, channels = x.shape[0], multiple.shape[0]
        codes = x.new_empty((*x.shape[:-1], channels), dtype=torch.uint8)
        self._library.dgq_quantize_gated(
            *(*_addresses(*inputs), x.dtype == torch.bfloat16, step.shape[0]),
            *(batch, x.shape[1:-1].numel(), channels, largest, *_addresses(codes, spoilt)),
        )
        return codes

    def channel_ranges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As ``reference.channel_ranges``, for float32 and bfloat16."""
        x = x.contiguous()
        batch, channels = x.shape[0], x.shape[-1]
        low, high = (x.new_empty(batch, channels, dtype=torch.float32) for _ in range(2))
        self._library.dgq_channel_ranges(
            *(*_addresses(x), x.dtype == torch.bfloat16),
            *(batch, x[0].numel() // channels, channels, *_addresses(low, high)),
        )
        return low, high

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float
    ) -> Tensor:
        """As ``reference.attention``, for bfloat16, where ``can_attend``.

        A key that is not finite spoils all queries of its head.
        """
        inputs = _contiguous(query, key, value)
        out = torch.empty_like(inputs[0])
        batch, n_queries, width = query.shape
        no_memory = self._library.dgq_attention(
            *(*_addresses(*inputs), batch, heads, n_queries, key.shape[1], width // heads),
            *(scale, self.has_tiles, out.data_ptr()),
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
        window = (*out.shape[1:], *kernel, *stride, *dilation)
        weight = weight.permute(0, 2, 3, 1)
        operands = _contiguous(codes, weight, weight_scale, scale, bias, step)
        sizes = _sizes(*codes.shape, *window)
        _check(self._library.dgq_convolve(*_arguments(operands), sizes, out.data_ptr()))
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
            dtype: of the output, one of ``operand_checks.READ``.
        """
        out_size = convolved(codes.shape, kernel, stride, [0, 0], dilation)
        out = codes.new_empty((*out_size, weight_scale.shape[0]), dtype=dtype)
        operands = _contiguous(codes, weight, weight_scale, scale, bias, step)
        sizes = _sizes(*codes.shape, *out.shape[1:], *kernel, *stride, *dilation)
        in_bfloat16 = dtype == torch.bfloat16
        multiply = self._library.dgq_multiply_tiles
        _check(multiply(*_arguments(operands), sizes, in_bfloat16, out.data_ptr()))
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
        operands = _contiguous(codes, weight, weight_scale, scale, bias, step)
        sizes = _sizes(*codes.shape, *codes.shape[1:3], weight_scale.shape[0], *POINT)
        tables = _contiguous(next_scale, multiple, zero_point, factor)
        _check(
            self._library.dgq_multiply_tiles_gated(
                *(*_arguments(operands), sizes, *_addresses(*tables)),
                *(next_scale.shape[0], largest, out.data_ptr()),
            )
        )
        return out


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


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    """Tensors as kernels read them. They have to outlive the call."""
    return [tensor.contiguous() for tensor in tensors]


def _arguments(operands: Sequence[Tensor]) -> list[int | None]:
    """Addresses of a product's operands, and the rows of its scale, bias and step."""
    return [*_addresses(*operands), *(operand.shape[0] for operand in operands[3:])]


def _check(no_memory: int) -> None:
    if no_memory:
        raise MemoryError("no memory for the sums of an integer product")


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    try:
        return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    except RuntimeError as error:  # one that stands for others, as in a transform of torch.func
        raise DGQError(
            "integer products take part in no transform of torch.func (vmap, jvp, grad): load the "
            "model with execution='float'"
        ) from error


@lru_cache(maxsize=1024)
def _sizes(*values: int) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)
