"""Captions from a hub dataset, or from a folder that the ``datasets`` library reads."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgq.errors import DGQError
from dgq.pipelines.hub import TIMEOUT_S

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+){0,2}")
FILE_SUFFIXES = {".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".html"}


def is_hub_id(source: str) -> bool:
    """Whether a name that is no local path can be a dataset, ``owner/name:split:column``."""
    return HUB_ID.fullmatch(source) is not None and Path(source).suffix.lower() not in FILE_SUFFIXES


def read_dataset(source: str, columns: Sequence[str]) -> list[str]:
    """One column of a dataset; the first if an image has several captions.

    Args:
        source: folder, or ``owner/name`` with optional split and column. Without a split it is the
            only one, or ``test``.
        columns: names to look for if ``source`` names no column.

    Raises:
        DGQError: if it is not available, or has no such split or column.
    """
    name, *rest = [source] if Path(source).is_dir() else source.split(":")
    wanted_split, wanted_column = (*rest, None, None)[:2]
    splits = _load(name)
    split = wanted_split or (next(iter(splits)) if len(splits) == 1 else "test")
    if split not in splits:
        raise DGQError(f"{name} has no split {split}, but {', '.join(splits)}: {_how(name)}")
    table = splits[split]
    known = [wanted_column] if wanted_column else columns
    column = next((c for k in known for c in table.column_names if c.lower() == k.lower()), None)
    if column is None:
        found = ", ".join(table.column_names)
        raise DGQError(f"{name} has no column {' or '.join(known)}, but {found}: {_how(name)}")
    return [_first(value, name, column) for value in table[column]]


def _load(name: str) -> Any:
    """All splits of a dataset."""
    try:
        import datasets  # takes a second, and most captions come from files
    except ImportError as error:
        raise DGQError(f"{name} is read by a package: pip install 'dgq[train]'") from error
    from huggingface_hub import HfApi

    try:
        if not Path(name).is_dir() and not datasets.config.HF_HUB_OFFLINE:
            # Fail at once, rather than after minutes of retries.
            HfApi().dataset_info(name, timeout=TIMEOUT_S)
        datasets.disable_progress_bars()
        return datasets.load_dataset(name)
    except Exception as error:  # no network, no such dataset, no permission, another format
        if Path(name).is_dir():
            raise DGQError(
                f"the folder {name} holds no dataset that can be read ({type(error).__name__}): "
                "expected metadata.csv, metadata.jsonl, or what `datasets` loads"
            ) from error
        raise DGQError(
            f"{name} is neither a file or folder here, nor can it be had as a dataset "
            f"({type(error).__name__}): give a file of captions, or `hf download --repo-type "
            f"dataset {name}` where there is internet and give the folder"
        ) from error


def _how(name: str) -> str:
    return f"name them as {name}:split:column"


def _first(value: Any, name: str, column: str) -> str:
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str):
        raise DGQError(f"column {column} of {name} holds {type(value).__name__}, not captions")
    return value
