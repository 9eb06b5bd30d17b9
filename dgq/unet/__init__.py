"""A stock UNet with quantized layers and attention, and the state of each of its calls."""
