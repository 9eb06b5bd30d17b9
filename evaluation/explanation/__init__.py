"""Pictures of what a quantized model does, and of where it hurts."""
