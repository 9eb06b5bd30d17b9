"""What a pipeline's folder holds: what it says it is, and the content that it is recognised by.

Of all files only those count that loading reads: a second download, a ``.DS_Store`` or another
place change nothing, and one changed weight, setting or merge of a tokenizer is another pipeline.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dgq.errors import DGQError
from dgq.files import check_regular, read_json
from dgq.fingerprint import add_tensor

INDEX = "model_index.json"
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker")
"""Parts of a pipeline that are not loaded, or see no image that is drawn from a prompt."""

CONFIGS = ("config.json", "scheduler_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model"),
)
WEIGHTS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
NOTES = ("transformers_version", "architectures", "dtype", "torch_dtype", "name_or_path")
NOTES_OF_TOKENIZERS = (
    "is_local",
    "local_files_only",
    "tokenizer_file",
    "vocab_file",
    "merges_file",
)
LARGEST = 2**24
"""No size in a configuration is larger; a schedule of 10^9 steps or layers would take for ever."""


def read_components(folder: Path) -> dict[str, tuple[str, str]]:
    """Library and class of each part of a text-to-image pipeline.

    Raises:
        DGQError: if the folder is none that can be calibrated.
    """
    index = read_json(folder / INDEX)
    kind = index.get("_class_name") if isinstance(index, dict) else None
    if kind not in PIPELINES:
        raise DGQError(
            f"{folder} is {kind or 'something else'}: expected a text-to-image pipeline, "
            f"{' or '.join(PIPELINES)}"
        )
    found = {
        name: (str(value[0]), str(value[1]))
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and all(value) and name not in UNUSED
    }
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if name not in found:
            raise DGQError(f"the pipeline {folder} is not whole: {INDEX} names no {name}")
    if found["unet"][1] != "UNet2DConditionModel":
        raise DGQError(f"{folder} has a {found['unet'][1]}; expected a UNet2DConditionModel")
    return found


def check_folder(folder: Path) -> None:
    """Raise DGQError unless a folder describes a pipeline that can be loaded and calibrated."""
    for name, (library, _) in read_components(folder).items():
        part = folder / name
        if not part.is_dir():
            raise DGQError(f"the pipeline {folder} is not whole: it has no folder {name}")
        names = {key for file in weight_files(part, library) for key in _names(file)}
        for file in configs_of(part):
            check_sizes(read_json(file), len(names) or LARGEST, file)
    unet, vae = (read_json(folder / name / CONFIGS[0]) for name in ("unet", "vae"))
    channels = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if channels != (vae.get("latent_channels", 4),) * 2:
        raise DGQError(
            f"the UNet of {folder} maps {channels[0]} channels to {channels[1]}, the latents have "
            f"{vae.get('latent_channels', 4)}: it edits or inpaints; expected text-to-image"
        )


def check_sizes(value: Any, n_tensors: int, file: Path, name: str = "") -> None:
    """Raise DGQError for sizes that building the network would take for ever with.

    Args:
        value: a configuration, or a part of it.
        n_tensors: of the network; it has at most as many layers.
        file: for the message.
        name: of the part.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_sizes(item, n_tensors, file, str(key))
    elif isinstance(value, list | tuple):
        if len(value) > max(n_tensors, len(PIPELINES)):
            raise DGQError(f"{file}: {name} has {len(value)} entries, more than tensors: mend it")
        for item in value:
            check_sizes(item, n_tensors, file, name)
    elif isinstance(value, int) and value > (n_tensors if "layers" in name else LARGEST):
        raise DGQError(f"{file}: {name} is {value}, which cannot be built: restore the file")


def pipeline_sha256(folder: Path) -> str:
    """Hexadecimal SHA-256 of all in a folder that determines what the pipeline draws."""
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
        _add_weights(digest, name, weight_files(part, library))
    return digest.hexdigest()


def configs_of(part: Path) -> list[Path]:
    """Configurations of a component."""
    return [part / name for name in CONFIGS if (part / name).is_file()]


def weight_files(part: Path, library: str) -> list[Path]:
    """The safetensors files that a component is loaded from; none for a tokenizer or sampler."""
    name = WEIGHTS.get(library)
    if name is None:
        return []
    index = part / f"{name}.safetensors.index.json"
    if not index.is_file():
        whole = part / f"{name}.safetensors"
        return [whole] if whole.is_file() else []
    try:
        shards = sorted(set(read_json(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise DGQError(f"{index} is damaged ({error!r}): restore it") from error
    for shard in shards:
        check_regular(part / str(shard))
    return [part / str(shard) for shard in shards]


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise DGQError(f"{file} is damaged or no safetensors file ({error}): restore it") from error


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without remarks on where it is from and who wrote it."""
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
    """Add tensors by name, however they are spread over files."""
    places = sorted(_places(files))
    for key, file in places:
        with safe_open(file, framework="pt") as opened:
            add_tensor(digest, f"{name}.{key}", opened.get_tensor(key))


def _places(files: list[Path]) -> Iterator[tuple[str, Path]]:
    for file in files:
        for key in _names(file):
            yield key, file
