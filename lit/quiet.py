"""Suppression of Lightning's hints that do not concern users of this project."""

import logging
import warnings

IRRELEVANT_WARNINGS = (
    "in eval mode at the start",
    "LeafSpec",
    "args parameter",
    "is not empty",
    "returned `None`",
    "dirpath has changed",
)

PROFILER = "lightning.pytorch.profilers.profiler"
"""The logger of the report that ``--trainer.profiler`` asks for."""


def quieten_lightning() -> None:
    """Suppress these hints."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(PROFILER).setLevel(logging.INFO)
    for message in IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", f".*{message}.*")
