"""Where a pipeline comes from: an embedded model, a folder, a single file or the hub."""

from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download, snapshot_download

from dgq.errors import DGQError, first_line
from dgq.hub.names import hub_id
from dgq.pipelines.embedded import EMBEDDED
from dgq.pipelines.files import INDEX, check_folder, read_index
from dgq.pipelines.hub import look_up
from dgq.pipelines.single_files import check_single_file, converted_folder, is_single_file
from dgq.pipelines.weight_files import VARIANTS
from dgq.storage.files import checked_path, exists

CONFIGURATION = ["*.json", "*/*.json", "*/*.txt", "*/*.model"]
"""Patterns of a hub model's files other than weights."""


def resolve(source: str) -> Path:
    """The folder of a source; a hub model is downloaded.

    Raises:
        DGQError: for a folder that is no pipeline, or a hub model that is not available.
    """
    checked_path(source, "a pipeline")
    folder = EMBEDDED.get(source, Path(source))
    if is_single_file(folder):
        check_single_file(folder)
        folder = converted_folder(folder, configuration_of)
    elif not exists(folder):
        check_id(source)
        folder = download(source)
    if not (folder / INDEX).is_file():
        raise DGQError(
            f"{source or 'an empty name'} is not a pipeline: expected a folder with {INDEX}, as "
            "`DiffusionPipeline.save_pretrained` writes it"
        )
    check_folder(folder)
    return folder


def check_id(source: str) -> None:
    """Raise DGQError for a source that is neither local nor a possible hub id, ``owner/name``."""
    if "/" not in source and not EMBEDDED:
        raise DGQError(
            f"{source} is not a folder; embedded models come with DGQ's repository, not with the "
            "installed package: run in a clone of it, or name another pipeline"
        )
    if hub_id(source) is None:
        raise DGQError(
            f"{source} is neither a local folder nor a model's name: expected an embedded model "
            f"({', '.join(EMBEDDED)}), a folder, a .safetensors file, or an id on the hub, "
            "owner/name"
        )


def canonical(source: str) -> str:
    """A source that means the same from every working folder."""
    if source in EMBEDDED or not exists(Path(source)):
        return source
    return str(Path(source).resolve())


def download(source: str) -> Path:
    """Folder of a hub model in the cache, downloaded if necessary; its kind is checked first."""
    try:
        look_up(source, INDEX)
        index = Path(hf_hub_download(source, INDEX))
    except Exception as error:
        raise unavailable(source, error) from error
    read_index(index.parent, source)
    return _download_variant(source)


def _download_variant(source: str) -> Path:
    """Download a hub model in full precision, or in half precision if there is nothing else."""
    failed: Exception | None = None
    for variant in VARIANTS:
        try:
            return Path(
                DiffusionPipeline.download(
                    source, use_safetensors=True, safety_checker=None, variant=variant
                )
            )
        except Exception as error:
            failed = failed or error
            if "safetensors" not in str(error):
                break
    assert failed is not None
    raise unavailable(source, failed) from failed


def configuration_of(source: str) -> Path:
    """The configuration of a hub model, without its weights.

    Raises:
        DGQError: if it is not in the cache and cannot be downloaded.
    """
    try:
        look_up(source, INDEX)
        return Path(snapshot_download(source, allow_patterns=CONFIGURATION))
    except Exception as error:
        raise unavailable(source, error) from error


def unavailable(source: str, error: Exception) -> DGQError:
    """The one-line error that says what is missing and how to get it."""
    if exists(Path(source)) or source in EMBEDDED:
        kind = type(error).__name__
        return DGQError(f"cannot read the pipeline {source} ({kind}): {first_line(error)}")
    folder = "models/" + source.rpartition("/")[2]
    return DGQError(
        f"{source} is neither a local folder nor can it be downloaded ({type(error).__name__}): "
        f"run `hf download {source} --local-dir {folder}` where there is internet, then add "
        f"`--pipeline {folder}`"
    )
