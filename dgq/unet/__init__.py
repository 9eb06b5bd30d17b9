"""A stock UNet with quantized layers and attention, and what is known about each of its calls."""
