"""Quantized UNets for other engines: the integer products of this project in their operators."""
