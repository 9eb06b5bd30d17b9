"""What calibration is fed: prompts, recorded UNet calls, and the DataModule that serves them."""
