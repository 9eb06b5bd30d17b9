"""Export of quantized UNets: this project's integer products as operators of other engines."""
