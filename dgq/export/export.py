"""Export a quantized model to a folder that another engine can read."""

from dataclasses import dataclass
from pathlib import Path

from dgq.errors import DGQError
from dgq.export.engines import ENGINES
from dgq.export.folder import DESCRIPTION, check_free, folder_beside, recover
from dgq.export.openvino_pipeline import write_rest_of_pipeline
from dgq.export.phases import Phase, silent
from dgq.storage.checkpoint import read_manifest
from dgq.storage.files import write_json
from dgq.torch_defaults import torch_defaults


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Args:
        folder: its folder.
        layers: one-line summary of its layers.
        n_bytes: bytes of all its files.
        caution: where it must not be run, if anywhere.
    """

    folder: Path
    layers: str
    n_bytes: int
    caution: str | None = None


@torch_defaults()
def export(
    path: str | Path,
    engine: str,
    out: str | Path,
    whole_pipeline: bool = False,
    overwrite: bool = False,
    phase: Phase = silent,
) -> Exported:
    """Write a quantized model for another engine, completely or not at all.

    Args:
        path: a finished run, or the folder of a quantized model.
        engine: name in ``ENGINES``.
        out: folder to create.
        whole_pipeline: export text encoders and VAE too, in floating point (OpenVINO only).
        overwrite: replace an earlier export.
        phase: context around each part of the work.

    Raises:
        DGQError: before work starts, if something is missing or in the way, or the model cannot be
            exported.
    """
    out = Path(out)
    if engine not in ENGINES:
        raise DGQError(f"--to {engine} is none of the engines: expected {', '.join(ENGINES)}")
    if whole_pipeline and engine != "openvino":
        raise DGQError(f"--pipeline goes with --to openvino only, not with --to {engine}")
    target = ENGINES[engine]
    manifest = read_manifest(path)
    target.check_installed(engine)
    recover(out)
    check_free(out, overwrite)
    with folder_beside(out) as folder:
        layers = target.write(Path(path), folder, phase)
        if whole_pipeline:
            with phase("the rest of the pipeline"):
                write_rest_of_pipeline(manifest.pipeline, folder)
        content = {
            "engine": engine,
            "layers": layers,
            "weights_sha256": manifest.sha256,
            "versions": target.versions(),
        }
        write_json(folder / DESCRIPTION, content)
        n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Exported(out, layers, n_bytes, target.caution)
