"""Writing a calibrated UNet into a folder that ``dgq.load_quantized_unet`` reads."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from dgq.calibration.result import CalibrationResult
from dgq.errors import DGQError
from dgq.pipelines.sources import canonical
from dgq.storage.checkpoint import Manifest, has_model, save_quantized
from dgq.storage.files import check_writable, checked_path, write_json
from dgq.storage.model_files import REPORT_FILE


def save(
    calibrated: CalibrationResult | nn.Module,
    folder: str | Path,
    *,
    pipeline: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a calibrated UNet as packed weights and a manifest.

    Args:
        calibrated: the result of ``dgq.calibrate``, or its UNet. A result's report is written
            too, as ``calibration.json``.
        folder: where to write; created if it does not exist.
        pipeline: where the rest of the pipeline comes from (a folder or a hub id); by default the
            source of the calibrated pipeline.
        overwrite: replace a quantized model in the folder.

    Returns:
        The folder.

    Raises:
        DGQError: if the UNet was not calibrated, or the folder is in use or not writable.
    """
    result = calibrated if isinstance(calibrated, CalibrationResult) else None
    unet = calibrated if result is None else result.unet
    manifest = getattr(unet, "manifest", None)
    if not isinstance(manifest, Manifest):
        raise DGQError(
            f"this {type(unet).__name__} was not calibrated by dgq.calibrate: save what that "
            "returns; a quantized model that was loaded has save_pretrained"
        )
    folder = checked_path(folder, "save")
    if pipeline is not None and not isinstance(pipeline, str):
        raise DGQError(
            f"pipeline: expected a folder or a hub id as text, got a {type(pipeline).__name__}"
        )
    if has_model(folder) and not overwrite:
        raise DGQError(f"{folder} holds a quantized model: name another folder, or overwrite=True")
    check_writable(folder, "the folder")
    if pipeline is not None:
        manifest = replace(manifest, pipeline=canonical(pipeline))
    save_quantized(unet, folder, manifest)
    (folder / REPORT_FILE).unlink(missing_ok=True)  # of the model before
    if result is not None:
        write_json(folder / REPORT_FILE, result.report.to_dict())
    return folder
