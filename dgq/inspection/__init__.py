"""What a quantized model on disk holds, and how it runs here."""
