"""How a calibration is run: LightningModule, callbacks, strategies, command line."""
