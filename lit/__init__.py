"""How DGQ is run: LightningModule, callbacks, command line, evaluation."""
