"""Making the embedded model from nothing: `python -m scenes.training STAGE`."""

from transformers.utils import logging

# Here, since importing pipelines warns already: that there is no torchvision, which nothing needs.
logging.set_verbosity_error()
