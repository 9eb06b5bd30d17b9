"""Making the embedded model from nothing: `python -m scenes.training STAGE`."""
