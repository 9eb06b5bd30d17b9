"""Where kernels mark samples in which they meet a NaN."""

import torch
from torch import Tensor


def marks_of(sample: Tensor) -> Tensor | None:
    """``[batch]`` of zeros, as kernels mark it; None where NaNs are not tracked.

    They are tracked on a CPU, if nothing is traced: in a graph this would take an operator that
    writes to an argument, which compilers do not fuse and some do not accept; on GPUs it would take
    another pass.
    """
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    traced = torch.compiler.is_compiling() or tracing or type(sample) is not Tensor
    if sample.device.type != "cpu" or traced:
        return None
    return torch.zeros(sample.shape[0], dtype=torch.float32, device=sample.device)
