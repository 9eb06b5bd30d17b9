"""Train the embedded models from scratch: `python -m scenes.training STAGE`."""

import logging

# Before any import of a pipeline, which would warn that torchvision is missing; nothing needs it.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "torchvision" not in record.getMessage()
)
