"""Calibrating a UNet: recording its calls, the work at each target, and what is reported."""
