"""The operators as Triton kernels, for GPUs; imported only where Triton is installed.

Launchers take a ``Tile`` to run with; without one, candidates are timed on the device, once for
each shape. With ``TRITON_INTERPRET=1`` Triton runs the same kernels on tensors of a CPU.
"""

from dgq.ops.triton.products import conv2d_packed, int_conv2d, int_conv2d_packed, int_linear
from dgq.ops.triton.quantize import quantize
from dgq.ops.triton.tiles import Tile

__all__ = [
    "Tile",
    "conv2d_packed",
    "int_conv2d",
    "int_conv2d_packed",
    "int_linear",
    "quantize",
]
