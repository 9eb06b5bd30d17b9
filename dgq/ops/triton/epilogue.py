"""From sums of products to outputs: scaled, with a bias, each row at its sampler step."""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgq.ops.triton.launch import KEPT, Launch

ROWS, COLUMNS = 8, 64
"""Size of the block that one program adds up."""


@triton.jit
def finished(
    sums,
    row,
    column,
    rows_per_sample,
    weight_scale_ptr,
    scale_ptr,
    bias_ptr,
    step_ptr,
    scale_stride,
    bias_stride,
    PER_ROW: tl.constexpr,
):
    """``sums [rows, columns] * scale[step] * weight_scale + bias[step]``, float32.

    Without a scale nothing depends on the step; strides are 0 if one row serves all steps.
    """
    factor = tl.load(weight_scale_ptr + column)[None, :]
    if PER_ROW:
        step = tl.load(step_ptr + row // rows_per_sample)
        factor = tl.load(scale_ptr + step * scale_stride)[:, None] * factor
        bias = tl.load(bias_ptr + step[:, None] * bias_stride + column[None, :])
    else:
        step = 0
        if scale_ptr is not None:
            step = tl.load(step_ptr)
            factor = tl.load(scale_ptr + step * scale_stride) * factor
        bias = tl.load(bias_ptr + step * bias_stride + column)[None, :]
    return sums.to(tl.float32) * factor + bias


@triton.jit
def add_parts(
    parts_ptr,
    residual_ptr,
    out_ptr,
    weight_scale_ptr,
    scale_ptr,
    bias_ptr,
    step_ptr,
    n_rows,
    n_columns,
    rows_per_sample,
    scale_stride,
    bias_stride,
    PER_ROW: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Add up the partial sums ``[parts, rows, columns]`` of several programs, and finish them."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Masked, not clamped: only then does Triton know that neighbours can be loaded together.
    exists = (row < n_rows)[:, None] & (column < n_columns)[None, :]
    places = row.to(tl.int64)[:, None] * n_columns + column[None, :]
    sums = tl.load(parts_ptr + places, mask=exists, other=0)
    for part in tl.static_range(1, PARTS):
        part_ptr = parts_ptr + part * tl.cast(n_rows, tl.int64) * n_columns
        sums += tl.load(part_ptr + places, mask=exists, other=0)
    value = finished(
        sums,
        tl.minimum(row, n_rows - 1),
        tl.minimum(column, n_columns - 1),
        rows_per_sample,
        weight_scale_ptr,
        scale_ptr,
        bias_ptr,
        step_ptr,
        scale_stride,
        bias_stride,
        PER_ROW,
    )
    if residual_ptr is not None:
        value += tl.load(residual_ptr + places, mask=exists).to(tl.float32)
    tl.store(out_ptr + places, value.to(out_ptr.dtype.element_ty), mask=exists)


class Epilogue:
    """The tables of a product's epilogue, as kernels take them.

    Args:
        weight_scale: ``[out]``.
        scale: ``[steps]``, scale of the activations, or None if they are not quantized.
        bias: ``[steps, out]``.
        step: ``[1]`` or ``[batch]``, or None without a scale.
        residual: tensor to add, of the output's shape.
    """

    def __init__(
        self,
        weight_scale: Tensor,
        scale: Tensor | None,
        bias: Tensor,
        step: Tensor | None,
        residual: Tensor | None = None,
    ) -> None:
        self.residual = None if residual is None else residual.contiguous()
        # A bias may consist of some columns of a wider one.
        bias = bias if bias.stride(1) == 1 else bias.contiguous()
        scale = None if scale is None else scale.contiguous()
        step = None if step is None else step.contiguous()
        self.tables = (weight_scale.contiguous(), scale, bias, step)
        in_steps = scale is not None and scale.shape[0] > 1
        self.strides = (int(in_steps), bias.stride(0) if bias.shape[0] > 1 else 0)
        self.per_row = step is not None and step.shape[0] > 1 and any(self.strides)

    def add_parts(self, parts: Tensor, output: Tensor, rows_per_sample: int) -> None:
        """Write the outputs of partial sums ``[parts, rows, columns]`` into ``[..., columns]``."""
        launch = _launch_of(parts.shape, rows_per_sample, self.strides, self.per_row)
        launch(parts, self.residual, output, *self.tables)


@lru_cache(KEPT)
def _launch_of(
    parts: tuple[int, int, int], rows_per_sample: int, strides: tuple[int, int], per_row: bool
) -> Launch:
    """The launch of ``add_parts`` for sums of a shape ``[parts, rows, columns]``."""
    n_parts, n_rows, n_columns = parts
    grid = (triton.cdiv(n_rows, ROWS), triton.cdiv(n_columns, COLUMNS))
    sizes = (n_rows, n_columns, rows_per_sample, *strides)
    return Launch(add_parts, grid, (*sizes, per_row, n_parts, ROWS, COLUMNS))


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which products of operands of a dtype are summed."""
    return torch.int32 if dtype == torch.int8 else torch.float32
