"""Modules that run a quantized UNet: they hold nothing but packed tensors."""
