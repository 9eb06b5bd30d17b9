"""Whether an operator on a CPU was computed by our kernels."""

from collections.abc import Callable
from typing import Any

import pytest
from torch.autograd.profiler import profile

from dgq.ops import native

compiled = pytest.mark.skipif(native.kernels() is None, reason="no compiler")
"""For tests of our kernels."""

attending = pytest.mark.skipif(
    not getattr(native.kernels(), "attention", False), reason="our attention is not compiled here"
)
"""For tests of our kernel of attention."""

OF_REFERENCE = {
    *("aten::round", "aten::amin", "aten::scaled_dot_product_attention"),
    *("aten::linear", "aten::conv2d", "aten::sigmoid"),
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
