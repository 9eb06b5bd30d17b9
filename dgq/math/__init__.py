"""Pure functions on tensors: quantization, ranges, groups, exponents, rounding, errors."""
