"""Drawing pictures from a prompt: quantized, in full precision, or one beside the other."""
