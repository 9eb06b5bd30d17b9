"""Whether an operator on a CPU was computed by our kernels."""

from collections.abc import Callable
from typing import Any

from torch.autograd.profiler import profile

OF_REFERENCE = {
    *("aten::round", "aten::amin", "aten::scaled_dot_product_attention"),
    *("aten::linear", "aten::conv2d"),
}
"""What the references compute with, and our kernels do not."""


def is_left_to_torch(operator: Callable[..., Any], *operands: Any) -> bool:
    """Whether the reference computes this, or raises an error: our kernels check nothing."""
    with profile(use_kineto=False) as calls:
        try:
            operator(*operands)
        except RuntimeError as error:
            if "API call failed" in str(error):  # in our C++, after the checks
                raise
            return True
    return any(event.name in OF_REFERENCE for event in calls.function_events)
