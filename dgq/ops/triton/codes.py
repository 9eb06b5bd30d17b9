"""Codes of quotients: round, add the zero point, clamp, multiply."""

import triton
import triton.language as tl

ROUNDING = tl.constexpr(1.5 * 2**23)
"""Adding this to a float32 below 2^22 and subtracting it again rounds half to even."""

BEYOND = tl.constexpr(2.0**21)
"""Quotients beyond this are clamped with any 16-bit zero point."""


@triton.jit
def coded(value, divisor, zero, factor, LARGEST: tl.constexpr):
    """``clamp(round(value / divisor) + zero, 0, LARGEST) * factor``, int32."""
    quotient = tl.div_rn(value, tl.broadcast_to(divisor, value.shape))
    return code_of(quotient, zero, factor, LARGEST)


@triton.jit
def code_of(quotient, zero, factor, LARGEST: tl.constexpr):
    """``clamp(round(quotient) + zero, 0, LARGEST) * factor``, int32."""
    quotient = tl.minimum(tl.maximum(quotient, -BEYOND), BEYOND)
    code = quotient + ROUNDING - ROUNDING + zero
    return (tl.minimum(tl.maximum(code, 0.0), LARGEST) * factor).to(tl.int32)
