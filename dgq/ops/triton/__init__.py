"""The operators as Triton kernels, for GPUs; imported only where Triton is installed.

Launchers take a ``Tile`` to run with. Without one, they use a measured tile where a copy engine
loads the operands; elsewhere they time candidates on the device, once for each shape. With
``TRITON_INTERPRET=1`` Triton runs the same kernels on CPU tensors.
"""

from dgq.ops.triton.gated import int_linear_gated
from dgq.ops.triton.padding import pad
from dgq.ops.triton.products import (
    conv2d_packed,
    int_conv2d,
    int_conv2d_packed,
    int_linear,
)
from dgq.ops.triton.quantize import quantize
from dgq.ops.triton.tiles import Tile
from dgq.ops.triton.unpack import unpack
from dgq.ops.triton.unpack_all import unpack_all

__all__ = [
    "Tile",
    "conv2d_packed",
    "int_conv2d",
    "int_conv2d_packed",
    "int_linear",
    "int_linear_gated",
    "pad",
    "quantize",
    "unpack",
    "unpack_all",
]
