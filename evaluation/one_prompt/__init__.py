"""Drawing pictures from a prompt: quantized, in full precision, or both side by side."""
