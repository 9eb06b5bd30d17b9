"""Which sources may be published: hub ids, never a path on this machine."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from dgq.errors import DGQError
from dgq.pipelines.embedded import EMBEDDED
from dgq.storage.files import exists
from dgq.storage.manifest import QUANTIZATION

PLACE = "_name_or_path"
"""Key where diffusers notes in a configuration what a model was loaded from."""

PATH = re.compile(r"(?<![\w.:/~\\-])(?:file:/|~|\.{1,2}|[A-Za-z]:)?[/\\][^\s\"'`|,;()\[\]]+")
"""Text that begins like a path: with a root, a home, a drive or the current folder."""


def hub_id(source: str) -> str | None:
    """A pipeline's source if it is an id on the hub, ``owner/name``, and no folder here."""
    if source.count("/") != 1 or exists_here(source):
        return None
    try:
        validate_repo_id(source)
    except HFValidationError:
        return None
    return source


def publishable(source: str) -> str:
    """A pipeline's source if others can find it, else nothing."""
    return source if source in EMBEDDED else hub_id(source) or ""


def checked_id(source: str, option: str) -> str:
    """A hub id given by a user.

    Raises:
        DGQError: if it is no hub id but, for example, a path.
    """
    found = hub_id(source)
    if found is None:
        raise DGQError(f"{option} {source!r} is not an id on the hub: expected owner/name")
    return found


def published_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without local paths; a quantized model has to be sealed again."""
    kept = {k: v for k, v in config.items() if k != PLACE}
    quantization = kept[QUANTIZATION]
    pipeline = publishable(quantization["pipeline"])
    return {**kept, QUANTIZATION: {**quantization, "pipeline": pipeline}}


def without_paths(text: str) -> str:
    """A text in which every path is replaced by its last part."""
    return PATH.sub(lambda found: re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], text)


def exists_here(source: str) -> bool:
    """Whether a source is a path on this machine."""
    return source.startswith(("/", "~", ".")) or exists(Path(source))
