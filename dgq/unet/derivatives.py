"""Derivatives, which our operators do not have."""

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor


def may_need_derivative(*tensors: Tensor) -> bool:
    """Whether a gradient by any of these is wanted, or ``torch.func`` transforms them.

    Such a transform (``jvp``) would take zeros from operators without a derivative.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return True
    return not torch.compiler.is_compiling() and any(map(is_functorch_wrapped_tensor, tensors))
