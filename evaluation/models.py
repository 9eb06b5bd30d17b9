"""The models of a comparison: the full-precision pipeline, and its quantized UNets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dgq.errors import DGQError
from dgq.inference.execution import Execution
from dgq.storage.checkpoint import FOLDER, Manifest, has_model, quantized_folder, read_manifest
from dgq.storage.fingerprint import network_sha256

FULL_PRECISION = "full precision"
LIGHTNING_SUFFIX = ".ckpt"


@dataclass(frozen=True)
class Model:
    """One UNet of a comparison.

    Args:
        name: name in tables and of the folder of its images.
        checkpoint: folder of the quantized model; None is the pipeline in full precision.
        manifest: manifest of the quantized model.
        sha256: hash of the packed model, weights and manifest; None in full precision.
        execution: how it runs here, once it has been loaded.
    """

    name: str
    checkpoint: Path | None = None
    manifest: Manifest | None = None
    sha256: str | None = None
    execution: Execution | None = None

    @property
    def run(self) -> Path | None:
        """Folder of the run that it belongs to."""
        return None if self.checkpoint is None else run_folder(self.checkpoint)


def find_models(ckpts: Sequence[Path]) -> list[Model]:
    """Full precision first, then the quantized models in the order given.

    Raises:
        DGQError: if one is missing, damaged, or named twice.
    """
    folders = [locate(ckpt) for ckpt in ckpts]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DGQError(f"--ckpt names the same model twice: {', '.join(map(str, ckpts))}")
    names = _names([run_folder(folder) for folder in folders])
    models = [Model(FULL_PRECISION)]
    for folder, name in zip(folders, names, strict=True):
        manifest = read_manifest(folder)
        models.append(Model(name, folder, manifest, manifest.sha256))
    return models


def locate(ckpt: Path) -> Path:
    """The quantized model's folder that ``ckpt`` names: a run, its Lightning checkpoint, or itself.

    Raises:
        DGQError: if there is none, or the calibration has not finished.
    """
    if not (ckpt.is_file() and ckpt.suffix == LIGHTNING_SUFFIX):
        return quantized_folder(ckpt)
    folder = ckpt.parent / FOLDER
    if not has_model(folder):
        raise DGQError(
            f"{ckpt} belongs to an unfinished calibration (there is no {folder}): resume "
            "it with `python train.py fit ... --ckpt_path last`"
        )
    return folder


def run_folder(folder: Path) -> Path:
    """Folder of the run that a quantized model belongs to."""
    return folder.parent if folder.name == FOLDER else folder


def check_same_architecture(unet: nn.Module, quantized: nn.Module, name: str, source: str) -> None:
    """Raise DGQError if a quantized UNet does not belong to this pipeline."""
    expected, actual = _architecture(unet), _architecture(quantized)
    for key in sorted(expected.keys() | actual.keys()):
        theirs, ours = expected.get(key), actual.get(key)
        if theirs != ours:
            raise DGQError(
                f"{name} was made for another model than {source}: "
                f"{key} is {ours!r} there and {theirs!r} in the pipeline"
            )


def check_same_weights(unet: nn.Module, models: Sequence[Model], source: str) -> None:
    """Raise DGQError if a quantized UNet was made from weights other than this pipeline's."""
    noted = [(m, m.manifest.unet_sha256) for m in models if m.manifest and m.manifest.unet_sha256]
    current = network_sha256(unet) if noted else ""
    for model, sha256 in noted:
        if sha256 != current:
            raise DGQError(
                f"{model.name} was calibrated on other weights than {source} has now: calibrate it "
                f"anew (remove {model.run}, or choose another folder with --run), or name the "
                "pipeline it was made from with --pipeline"
            )


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    """The value as JSON returns it: tuples become lists, paths become strings."""
    result: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return result


def _names(runs: Sequence[Path]) -> list[str]:
    """Names of run folders, with as many parent folders as needed to tell them apart."""
    parts = [run.resolve().parts for run in runs]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(set(parts)):
        depth += 1
    return ["-".join(p[-depth:]) for p in parts]


def _architecture(unet: Any) -> dict[str, Any]:
    config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    config.pop("quantization_config", None)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
