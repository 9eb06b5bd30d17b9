"""Inputs of calibration: prompts, recorded UNet calls, and the DataModule that serves them."""
