"""The content of a pipeline's folder: its description, and the hash that identifies it.

Only files that loading reads count: a second download, a ``.DS_Store`` or another location change
nothing, but a changed weight, setting or tokenizer merge makes another pipeline.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dgq.errors import DGQError
from dgq.pipelines.kinds import KINDS, UNET, why_refused
from dgq.pipelines.weight_files import check_no_pickles, tensor_names, weight_files
from dgq.storage.files import read_json
from dgq.storage.fingerprint import add_tensor
from dgq.unet.configuration import LARGEST, check_sizes

INDEX = "model_index.json"
UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker")
"""Parts of a pipeline that are not loaded, or do not affect images drawn from a prompt."""

CONFIGS = ("config.json", "scheduler_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model"),
)
NOTES = ("transformers_version", "architectures", "dtype", "torch_dtype", "name_or_path")
NOTES_OF_TOKENIZERS = (
    "is_local",
    "local_files_only",
    "tokenizer_file",
    "vocab_file",
    "merges_file",
)


def read_components(folder: Path) -> dict[str, tuple[str, str]]:
    """Library and class of each part of a pipeline; reads nothing else of it.

    Raises:
        DGQError: if the pipeline is of a kind that cannot be calibrated, or parts are missing.
    """
    index = read_index(folder)
    found = {
        name: (str(value[0]), str(value[1]))
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and all(value) and name not in UNUSED
    }
    for name in ("unet", "vae", "scheduler", *KINDS[index["_class_name"]].parts):
        if name not in found:
            raise DGQError(f"the pipeline {folder} is incomplete: {INDEX} names no {name}")
    return found


def read_index(folder: Path, name: str | None = None) -> dict[str, Any]:
    """The ``model_index.json`` of a pipeline.

    Args:
        folder: folder of the pipeline, or one that holds only its ``model_index.json``.
        name: of the pipeline, for the message; the folder by default.

    Raises:
        DGQError: if the pipeline is of a kind that cannot be calibrated.
    """
    index = read_json(folder / INDEX)
    kind = index.get("_class_name") if isinstance(index, dict) else None
    reason = "it names no class" if kind is None else why_refused(index)
    if reason is not None:
        raise DGQError(
            f"{name or folder} is {_article(kind)}, which cannot be calibrated: {reason}; "
            f"expected a pipeline with a {UNET} that draws what a prompt says, such as a "
            f"StableDiffusionPipeline (docs/reference/models.md lists all)"
        )
    return dict(index)


def _article(kind: Any) -> str:
    """A kind of pipeline with its article."""
    if kind is None:
        return "something else"
    return f"{'an' if str(kind)[:1] in 'AEIOU' else 'a'} {kind}"


def check_folder(folder: Path) -> None:
    """Raise DGQError unless a folder describes a pipeline that can be loaded and calibrated."""
    for name, (library, _) in read_components(folder).items():
        part = folder / name
        if not part.is_dir():
            raise DGQError(f"the pipeline {folder} is incomplete: it has no folder {name}")
        check_no_pickles(folder, name, library)
        names = {key for file in weight_files(part, library) for key in tensor_names(file)}
        for file in configs_of(part):
            content = read_json(file)
            if not isinstance(content, dict):
                raise DGQError(f"{file} is not a configuration: expected a JSON object; restore it")
            check_sizes(content, len(names) or LARGEST, file)
    check_channels(folder)


def check_channels(folder: Path) -> None:
    """Raise DGQError unless the UNet has the channels that its kind of pipeline provides."""
    kind = read_index(folder)["_class_name"]
    unet, vae = (read_json(folder / name / CONFIGS[0]) for name in ("unet", "vae"))
    takes, returns = unet.get("in_channels", 4), unet.get("out_channels", 4)
    latents = vae.get("latent_channels", 4)
    if not isinstance(latents, int):
        raise DGQError(f"{folder}/vae: latent_channels is {latents!r}: restore the file")
    expected = [latents + extra for extra in KINDS[kind].extra_channels(latents)]
    if takes not in expected or returns != latents:
        raise DGQError(
            f"the UNet of {folder} maps {takes} channels to {returns}; in a {kind} with {latents} "
            f"channels of latents expected {' or '.join(map(str, expected))} to {latents}: one "
            "that inpaints or edits belongs into the pipeline that is made for it"
        )


def pipeline_sha256(folder: Path) -> str:
    """Hexadecimal SHA-256 of everything in a folder that determines what the pipeline draws."""
    return _sha256(folder, weights=True)


def described_sha256(folder: Path) -> str:
    """``pipeline_sha256`` without the weights."""
    return _sha256(folder, weights=False)


def _sha256(folder: Path, weights: bool) -> str:
    digest = hashlib.sha256()
    components = read_components(folder)
    index = {k: v for k, v in read_json(folder / INDEX).items() if k not in UNUSED}
    _add_json(digest, INDEX, {"class": index["_class_name"], **_settings(index)})
    for name, (library, _) in sorted(components.items()):
        part = folder / name
        for file in configs_of(part):
            _add_json(digest, f"{name}/{file.name}", _settings(read_json(file)))
        for file in (part / each for each in TOKENIZER if (part / each).is_file()):
            _add_tokenizer_file(digest, f"{name}/{file.name}", file)
        if weights:
            _add_weights(digest, name, weight_files(part, library))
    return digest.hexdigest()


def configs_of(part: Path) -> list[Path]:
    """Configurations of a component."""
    return [part / name for name in CONFIGS if (part / name).is_file()]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without notes on its origin and author."""
    notes = (*NOTES, *NOTES_OF_TOKENIZERS)
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in notes}


def _add_json(digest: "hashlib._Hash", name: str, content: Any) -> None:
    digest.update(f"{name} {json.dumps(content, sort_keys=True)}".encode())


def _add_tokenizer_file(digest: "hashlib._Hash", name: str, file: Path) -> None:
    if file.suffix == ".json":
        content = read_json(file)
        _add_json(digest, name, _settings(content) if "config" in file.name else content)
    else:
        content = file.read_bytes()
        digest.update(f"{name} {len(content)} ".encode() + content)


def _add_weights(digest: "hashlib._Hash", name: str, files: list[Path]) -> None:
    """Add tensors by name, regardless of how they are spread over files."""
    places = sorted(_places(files))
    for key, file in places:
        with safe_open(file, framework="pt") as opened:
            add_tensor(digest, f"{name}.{key}", opened.get_tensor(key))


def _places(files: list[Path]) -> Iterator[tuple[str, Path]]:
    for file in files:
        for key in tensor_names(file):
            yield key, file
