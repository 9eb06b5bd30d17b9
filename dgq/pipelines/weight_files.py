"""The safetensors files of a pipeline's component: one or several shards, full or half precision.

Files that may run code when read (``.bin``, ``.ckpt``) are never read.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from dgq.errors import DGQError
from dgq.storage.files import check_regular, read_json

WEIGHTS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""File names of each library."""

VARIANTS = (None, "fp16", "bf16")
"""Variants in order of preference: full precision first."""

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
"""Suffixes of files that may run code when read."""

NARROW = {"F16": "float16", "BF16": "bfloat16"}
"""Dtypes below full precision, by their safetensors names."""

Layout = tuple[str | None, list[Path]]
"""The variant that is loaded, and its files."""


def weight_layout(part: Path, library: str) -> Layout:
    """The variant of a component that is loaded, and its files.

    Args:
        part: folder of the component.
        library: library of the component.

    Returns:
        No files for a tokenizer or sampler, or if there are none.

    Raises:
        DGQError: for a damaged index.
    """
    name = WEIGHTS.get(library)
    for variant in VARIANTS if name else ():
        dotted = f".{variant}" if variant else ""
        index = part / f"{name}.safetensors.index{dotted}.json"
        if index.is_file():
            return variant, shards(index)
        whole = part / f"{name}{dotted}.safetensors"
        if whole.is_file():
            return variant, [whole]
    return None, []


def weight_files(part: Path, library: str) -> list[Path]:
    """The safetensors files that a component is loaded from; see ``weight_layout``."""
    return weight_layout(part, library)[1]


def shards(index: Path) -> list[Path]:
    """The files that an index names."""
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise DGQError(f"{index} is damaged ({error!r}): restore it") from error
    for name in names:
        check_regular(index.parent / str(name))
    return [index.parent / str(name) for name in names]


def check_no_pickles(folder: Path, part: str, library: str) -> None:
    """Raise DGQError if the only weights of a component are files that may run code when read.

    Args:
        folder: folder of the pipeline.
        part: name of the component.
        library: library of the component.
    """
    if library not in WEIGHTS or weight_files(folder / part, library):
        return
    pickled = sorted(f.name for f in (folder / part).iterdir() if f.suffix in PICKLES)
    if pickled:
        raise DGQError(
            f"{folder / part} has no safetensors but {pickled[0]}, which may run code and is never "
            "read: if you trust it, convert the pipeline by `DiffusionPipeline.from_pretrained("
            f"'{folder}', safety_checker=None).save_pretrained('{folder.name}-safe')`"
        )


def tensor_names(file: Path) -> list[str]:
    """Names of the tensors in a file; raises DGQError if it is not a safetensors file."""
    check_regular(file)
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise DGQError(f"{file} is damaged or no safetensors file ({error}): restore it") from error


def narrow_types(files: list[Path]) -> list[str]:
    """Dtypes below full precision in files, such as ``float16``; reads headers only."""
    found = {entry.get("dtype") for file in files for entry in header(file).values()}
    return sorted(NARROW[name] for name in found if name in NARROW)


def header(file: Path) -> dict[str, dict[str, object]]:
    """Shape and dtype of each tensor in a safetensors file, by name."""
    tensor_names(file)  # a damaged header is refused
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        content: dict[str, dict[str, object]] = json.loads(opened.read(size))
    content.pop("__metadata__", None)
    return content
