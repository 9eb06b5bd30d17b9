"""Configurations that networks are built from: the values that count, and plausible sizes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgq.errors import DGQError

NOTE = "_use_default_values"
"""Key under which diffusers notes which arguments had their defaults, in an order by chance."""

LARGEST = 2**24
"""Largest plausible size in a configuration; 10^9 steps or layers would take forever to build."""


def building(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose values all count.

    Building from a configuration with the note, diffusers ignores the values of the arguments in
    it, even those that were registered since.
    """
    return {key: value for key, value in config.items() if key != NOTE}


def check_sizes(value: Any, n_tensors: int, file: Path, name: str = "") -> None:
    """Raise DGQError for sizes with which building the network would take forever.

    Args:
        value: a configuration, or a part of it.
        n_tensors: number of the network's tensors, which limits that of its layers.
        file: for the message.
        name: name of the part.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_sizes(item, n_tensors, file, str(key))
    elif isinstance(value, list | tuple):
        if len(value) > max(n_tensors, 2):
            raise DGQError(f"{file}: {name} has {len(value)} entries, more than tensors: fix it")
        for item in value:
            check_sizes(item, n_tensors, file, name)
    elif isinstance(value, int) and value > (n_tensors if "layers" in name else LARGEST):
        raise DGQError(f"{file}: {name} is {value}, which cannot be built: restore the file")


def sizes_of_added(config: Any) -> tuple[int, int]:
    """How many ``time_ids`` SDXL's UNet takes, and the width of its ``text_embeds``.

    There are six numbers, for sizes and crops of the image. The refiner has five: its aesthetic
    score replaces two of them, and its only text encoder gives tokens and ``text_embeds`` of the
    same width.
    """
    total, each = config.projection_class_embeddings_input_dim, config.addition_time_embed_dim
    width = config.cross_attention_dim
    width = width if isinstance(width, int) else width[0]
    n_ids = 5 if total - 5 * each == width else 6
    return n_ids, total - n_ids * each
