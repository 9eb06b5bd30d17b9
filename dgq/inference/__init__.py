"""The second life of a quantized UNet: modules that run, and hold nothing but packed tensors."""
