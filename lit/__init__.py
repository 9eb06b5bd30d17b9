"""Running a calibration: LightningModule, callbacks, strategies, command line."""
