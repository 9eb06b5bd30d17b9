"""Pictures of what a quantized model does, and where quantization costs most quality."""
