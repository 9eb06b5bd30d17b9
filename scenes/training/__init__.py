"""Making the embedded model from nothing: `python -m scenes.training STAGE`."""

import logging

# Before any import of a pipeline, which would say that there is no torchvision: nothing needs it.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "torchvision" not in record.getMessage()
)
