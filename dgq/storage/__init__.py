"""Quantized models on disk: written atomically, sealed, read by our loader and by diffusers."""
