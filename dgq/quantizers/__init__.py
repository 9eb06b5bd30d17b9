"""Quantizers of activations, weights and scores for a UNet under calibration."""
