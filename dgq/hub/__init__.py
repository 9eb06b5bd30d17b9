"""Quantized models on the hub: the card, and what of a description is published."""
