"""Models in one ``.safetensors`` file in the layout of the original code (``from_single_file``).

Such a file has only weights: the structure of the networks, the tokenizer and the sampler come from
the folder of a pipeline of the same kind. The file is converted once, into a folder of the user's
cache that is named after its content, and from then on is a pipeline like any other.
"""

import hashlib
import importlib
import logging
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgq.errors import DGQError, first_line
from dgq.pipelines.files import INDEX, check_folder, described_sha256, read_index
from dgq.pipelines.weight_files import NARROW, PICKLES, header
from dgq.storage.files import exists, sha256_of
from dgq.storage.locks import locked

UNET_PREFIX = "model.diffusion_model."
"""Prefix of the UNet's tensor names in the original layout."""

HOW_TO_CONVERT = (
    'if you trust it, convert it by `python -c "import torch; from safetensors.torch import '
    "save_file; s = torch.load('{name}', weights_only=True); s = s.get('state_dict', s); "
    "save_file({{k: v.contiguous() for k, v in s.items() if hasattr(v, 'shape')}}, "
    "'{stem}.safetensors')\"`"
)

log = logging.getLogger(__name__)


def is_single_file(path: Path) -> bool:
    """Whether a source is a single file, or would be one by its name."""
    return (exists(path) and path.is_file()) or path.suffix in (".safetensors", *PICKLES)


def check_single_file(file: Path) -> None:
    """Raise DGQError unless a file holds a whole model in the original layout; reads the header."""
    if file.suffix in PICKLES:
        how = HOW_TO_CONVERT.format(name=file.name, stem=file.stem)
        raise DGQError(f"{file} may run code when it is read, so it is not: {how}")
    if not exists(file):
        raise DGQError(f"{file} does not exist: expected a .safetensors file, or another pipeline")
    names = header(file)
    if not any(name.startswith(UNET_PREFIX) for name in names):
        raise DGQError(
            f"{file} holds no UNet in the original layout (names that begin with {UNET_PREFIX}) "
            f"but {next(iter(names), 'nothing')}: expected a whole Stable Diffusion or SDXL "
            "checkpoint, not a LoRA or a part of a pipeline"
        )


def converted_folder(file: Path, configuration_of: Callable[[str], Path]) -> Path:
    """The folder of the pipeline in a file, converted if necessary.

    Args:
        file: file that ``check_single_file`` accepted.
        configuration_of: finds the configuration of a model on the hub.

    Raises:
        DGQError: if no configuration is available, or it does not fit the file.
    """
    config = configuration_beside(file) or _configuration_on_hub(file, configuration_of)
    kind = read_index(config, f"{file} (by {config / INDEX})")["_class_name"]
    content = f"{_content(file)} {described_sha256(config)}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    folder = cache_folder() / f"{file.stem}-{digest}"
    with locked(folder, wait=True):
        if not (folder / INDEX).is_file():
            log.warning("converting %s once into %s", file, folder)
            convert(file, config, kind, folder)
    return folder


def cache_folder() -> Path:
    """Where converted pipelines are kept.

    Raises:
        DGQError: if there is no home folder.
    """
    try:
        return Path.home() / ".cache/dgq/pipelines"
    except RuntimeError as error:
        raise DGQError(
            f"there is no place for the converted pipeline ({error}): set HOME"
        ) from error


def configuration_beside(file: Path) -> Path | None:
    """Folder of a pipeline named like the file or containing it; None if there is none."""
    folders = (file.with_suffix(""), file.parent)
    return next((folder for folder in folders if (folder / INDEX).is_file()), None)


def _configuration_on_hub(file: Path, configuration_of: Callable[[str], Path]) -> Path:
    """The configuration of the hub model that a file seems to be made from."""
    repository = likely_repository(file)
    try:
        return configuration_of(repository)
    except DGQError as error:
        place = file.with_suffix("")
        raise DGQError(
            f"{file} has weights but no configuration: put that of the model it was made from "
            f"into {place}, for {repository} by `hf download {repository} --include '*.json' "
            f"'*/*.json' '*/*.txt' --local-dir {place}` where there is internet"
        ) from error


def likely_repository(file: Path) -> str:
    """The hub id of the model that a file's tensors match, by their names and shapes."""
    single_file_utils = importlib.import_module("diffusers.loaders.single_file_utils")
    tensors = {name: _without_memory(entry) for name, entry in header(file).items()}
    return str(single_file_utils.fetch_diffusers_config(tensors)["pretrained_model_name_or_path"])


def _without_memory(entry: dict[str, Any]) -> Tensor:
    return torch.empty(entry["shape"], device="meta")


@lru_cache
def _sha256(file: Path, size: int, modified: int) -> str:
    return sha256_of(file)


def _content(file: Path) -> str:
    """SHA-256 of a file, computed once in a process."""
    status = file.stat()
    return _sha256(file.resolve(), status.st_size, status.st_mtime_ns)


def convert(file: Path, config: Path, kind: str, folder: Path) -> None:
    """Convert a file to the folder of a pipeline, in the file's precision, atomically.

    Args:
        file: file in the original layout.
        config: folder of a pipeline with the same networks.
        kind: class of the pipeline.
        folder: folder to create.

    Raises:
        DGQError: if the configuration does not fit the file.
    """
    try:
        pipeline = getattr(importlib.import_module("diffusers"), kind).from_single_file(
            str(file), config=str(config), local_files_only=True, torch_dtype=_precision(file)
        )
        _check_whole(pipeline)
    except Exception as error:  # whatever the libraries raise for what is not as they expect
        reason = first_line(error)
        if isinstance(error, NotImplementedError):  # a tensor on the meta device
            reason = "it lacks tensors of a network"
        raise DGQError(
            f"{file} cannot be read with the configuration in {config} ({reason}): give that of "
            f"the model it was made from, in {file.with_suffix('')}"
        ) from error
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        pipeline.save_pretrained(str(beside), safe_serialization=True)
        check_folder(beside)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check_whole(pipeline: Any) -> None:
    """Raise NotImplementedError, as diffusers does, for a tensor that was not in the file."""
    for part, network in pipeline.components.items():
        for name, tensor in network.state_dict().items() if isinstance(network, nn.Module) else ():
            if tensor.is_meta:
                raise NotImplementedError(f"{part}.{name}")


def _precision(file: Path) -> torch.dtype | None:
    """The most frequent dtype in a file's UNet, if it is below full precision."""
    types = [e["dtype"] for name, e in header(file).items() if name.startswith(UNET_PREFIX)]
    most = str(max(types, key=types.count))
    return getattr(torch, NARROW[most]) if most in NARROW else None
