"""Differences between the outputs of quantized and full-precision UNets, call by call."""
