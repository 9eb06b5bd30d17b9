"""Quantizers of activations, weights and scores, while a UNet is calibrated."""
