"""A quantized model on disk: the layout of diffusers, sealed."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor

from dgq.errors import DGQError, SettingsError
from dgq.storage.files import (
    dump_json,
    files_written_into,
    read_json,
    remove_leftovers,
    written_together,
)
from dgq.storage.manifest import FORMAT, METHOD, QUANTIZATION, Manifest, manifest_of
from dgq.storage.seal import SEAL, defaults_of, essence, seal_of, tensor_sha256
from dgq.storage.tensor_files import read_tensors, save_tensors
from dgq.unet.configuration import check_sizes

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
INDEX_FILE = WEIGHTS_FILE + ".index.json"
REPORT_FILE = "calibration.json"
"""Report of the calibration, beside the model that it made."""

FOLDER = "quantized"
PLACES = ("", FOLDER, "unet")
"""Subfolders in which a quantized model may be: that of a run, or that of a pipeline."""

WEIGHTS = re.compile(r"diffusion_pytorch_model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
"""File names of weights."""

VARIANT = re.compile(
    r"diffusion_pytorch_model\.((?P<variant>[\w-]+)\.)?safetensors"
    r"|diffusion_pytorch_model\.safetensors\.index\.((?P<index>[\w-]+)\.)?json"
)
"""Names of weights files and indices, with or without a variant."""

CLASS = UNet2DConditionModel.__name__


@dataclass(frozen=True)
class ModelFiles:
    """A quantized model in the present format.

    Args:
        folder: that holds it.
        variant: variant in the names of the weights files, as in diffusers; none by default.
    """

    folder: Path
    variant: str | None = None

    @property
    def config_file(self) -> Path:
        """The description."""
        return self.folder / CONFIG_FILE

    @property
    def weight_files(self) -> list[Path]:
        """The file of weights, or its shards.

        Raises:
            DGQError: if an index names a file that is not in this folder, or there are files of
                other variants alone.
        """
        file = self.folder / of_variant(WEIGHTS_FILE, self.variant)
        index = self.folder / of_variant(INDEX_FILE, self.variant)
        if file.exists():
            return [file]
        if not index.exists():
            found = [f"variant={n!r}" if n else "no variant" for n in self._variants()]
            if found:
                raise DGQError(f"{file} does not exist, but others do: give {' or '.join(found)}")
            return [file]
        content = read_json(index)
        placed = content.get("weight_map") if isinstance(content, Mapping) else None
        if not isinstance(placed, Mapping) or not placed:
            raise DGQError(f"{index} is damaged: it names no files; restore it")
        names = sorted({str(name) for name in placed.values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise DGQError(f"{index} names {name[:80]!r}: expected safetensors files beside it")
        return [self.folder / name for name in names]

    def _variants(self) -> list[str]:
        """Variants of the weights in the folder; an empty string for files without one."""
        names = (VARIANT.fullmatch(file.name) for file in self.folder.iterdir())
        return sorted({match["variant"] or match["index"] or "" for match in names if match})

    def size(self) -> int:
        """Bytes of the weights."""
        return sum(file.stat().st_size for file in self.weight_files)

    def config(self) -> dict[str, Any]:
        """The content of ``config.json``.

        Raises:
            DGQError: if it cannot be read, or does not describe a quantized UNet.
        """
        config = read_json(self.config_file)
        if not is_quantized(config):
            raise DGQError(f"{self.config_file} describes no model quantized by {METHOD}")
        if config.get("_class_name", CLASS) != CLASS:
            found = str(config["_class_name"])[:60]
            raise DGQError(f"{self.config_file} describes a {found}: expected a {CLASS}")
        return dict(config)

    def manifest(self) -> Manifest:
        """The description, checked; raises DGQError for a damaged one."""
        return self.described(self.config())

    def format(self) -> str:
        """The format; ``manifest`` checks that the description has it."""
        return FORMAT

    def described(self, config: Mapping[str, Any]) -> Manifest:
        """The manifest in a configuration read from this folder."""
        try:
            return manifest_of(config)
        except DGQError as error:
            raise DGQError(f"{self.config_file}: {error}: restore it, or make it again") from error

    def read(self) -> tuple[Manifest, dict[str, Tensor]]:
        """Description and tensors, checked against the seal.

        Raises:
            DGQError: if anything is missing, damaged, or does not belong together.
        """
        config = self.config()
        manifest = self.described(config)
        tensors: dict[str, Tensor] = {}
        for file in self.weight_files:
            tensors |= read_tensors(file)[0]
        check_sizes(manifest.unet_config, len(tensors), self.config_file)
        check_seal(config, {n: tensor_sha256(n, t) for n, t in tensors.items()}, self)
        return manifest, tensors

    def __str__(self) -> str:
        return str(self.folder)


def of_variant(name: str, variant: str | None) -> str:
    """The file name of a variant, built as in diffusers."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{variant}.{suffix}" if variant else name


def check_variant(variant: Any) -> None:
    """Raise SettingsError unless ``variant`` can be part of a file name."""
    if not isinstance(variant, str) or not re.fullmatch(r"[\w-]+", variant):
        raise SettingsError(f"variant must be a word such as 'fp16', got {variant!r:.60}")


def is_quantized(config: Any) -> bool:
    """Whether the content of a ``config.json`` is that of a model quantized by DGQ."""
    quantization = config.get(QUANTIZATION) if isinstance(config, Mapping) else None
    return isinstance(quantization, Mapping) and quantization.get("quant_method") == METHOD


def check_seal(config: Mapping[str, Any], tensors: Mapping[str, str], source: object) -> None:
    """Raise DGQError unless a description and the hashes of its tensors match its seal."""
    if seal_of(config, tensors, defaults_of(UNet2DConditionModel)) != config[QUANTIZATION].get(
        SEAL
    ):
        raise DGQError(
            f"{source} is damaged or was edited: {CONFIG_FILE} and {WEIGHTS_FILE} do not agree "
            f"with the seal in {CONFIG_FILE}; restore them, or make them again"
        )


def check_as_saved(config: Mapping[str, Any], folder: Path) -> None:
    """Raise DGQError for a configuration that was changed while it was loaded.

    Args:
        config: the configuration, and what ``from_pretrained`` was given beside it.
        folder: the folder that it was loaded from.
    """
    if not (folder / CONFIG_FILE).is_file():
        return
    defaults = defaults_of(UNet2DConditionModel)
    found, saved = (essence(c, defaults) for c in (config, read_json(folder / CONFIG_FILE)))
    odd = {n for n in found.keys() | saved.keys() if found.get(n) != saved.get(n)} - {QUANTIZATION}
    if odd:
        raise DGQError(
            f"from_pretrained was given {', '.join(sorted(odd))}: a quantized UNet is loaded as it "
            "was saved: leave that out"
        )


def write_model(folder: Path, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Write a quantized model, description last, so that a killed run leaves no partial model.

    Neither replaces that of an earlier model before both are on disk, which may be full.
    """
    config = {"_class_name": CLASS, **manifest.config()}
    config.pop("_name_or_path", None)  # where the stock UNet was on this machine
    config = sealed(config, tensors)
    remove_leftovers(folder)
    with written_together(folder / WEIGHTS_FILE, folder / CONFIG_FILE) as (weights, description):
        save_tensors(weights, tensors, {"format": "pt"})
        dump_json(description, config)
    remove_other_weights(folder, {WEIGHTS_FILE})


@contextmanager
def written_as_whole(folder: Path) -> Iterator[Path]:
    """A folder to write a model into, which then replaces the content of ``folder``."""
    with files_written_into(folder) as beside:
        yield beside
        made = {file.name for file in beside.iterdir()}
    remove_other_weights(folder, made)


def remove_other_weights(folder: Path, made: Collection[str]) -> None:
    """Remove shards of an earlier model, which diffusers would read."""
    for file in folder.iterdir():
        if WEIGHTS.fullmatch(file.name) and file.name not in made:
            file.unlink()


def sealed(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """A description with a seal of itself and the tensors."""
    hashes = {name: tensor_sha256(name, tensor) for name, tensor in tensors.items()}
    seal = seal_of(config, hashes, defaults_of(UNet2DConditionModel))
    return {**config, QUANTIZATION: {**config[QUANTIZATION], SEAL: seal}}
