"""Inspection of a quantized model on disk, and of how it runs here."""
