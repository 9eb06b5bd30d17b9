"""How far the outputs of a quantized UNet are from full precision, call by call."""
