"""LoRA on quantized layers."""
