"""What both scripts show: one line for an error, and no noise from libraries."""

import logging
import warnings

from diffusers.utils import logging as diffusers_logging
from rich.console import Console
from rich.markup import escape
from transformers.utils import logging as transformers_logging

IRRELEVANT_WARNINGS = (
    "in eval mode at the start",
    "LeafSpec",
    "args parameter",
    "is not empty",
    "returned `None`",
)


def print_error(error: Exception) -> None:
    """Say on stderr, in one line, what was wrong."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold red]error:[/] {escape(' '.join(str(error).split()))}")


def print_note(text: str) -> None:
    """Say something on stdout, as it stands."""
    Console(soft_wrap=True, highlight=False).print(escape(text))


def quieten_libraries() -> None:
    """Hide loading bars and hints meant for authors of models, not for users of this project."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", f".*{message}.*")
