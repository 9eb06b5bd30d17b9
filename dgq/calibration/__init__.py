"""Calibrating a UNet: recording its calls, learning each target, and reporting the result."""
