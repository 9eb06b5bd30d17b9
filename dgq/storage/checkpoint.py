"""Quantized models on disk: written from a calibration, loaded ready to run."""

import logging
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.hub.names import PLACE
from dgq.inference.build import fill_
from dgq.inference.execution import Mode, check_mode, check_precision, prepare_
from dgq.inference.freeze import check_calibrated, frozen_state
from dgq.settings import QuantizationSettings
from dgq.storage.diffusers_quantizer import attach_
from dgq.storage.empty_unet import empty_quantized_unet
from dgq.storage.files import check_writable, checked_path, read_json
from dgq.storage.first_formats import CONFIG_FILE as FIRST_CONFIG_FILE
from dgq.storage.first_formats import FirstFiles
from dgq.storage.manifest import GenerationSettings, Manifest
from dgq.storage.model_files import (
    CONFIG_FILE,
    FOLDER,
    PLACES,
    ModelFiles,
    check_variant,
    is_quantized,
    write_model,
)
from dgq.torch_defaults import torch_defaults
from dgq.unet.context import QuantizationContext
from dgq.unet.devices import usable_device
from dgq.unet.layers import quantized_layers
from dgq.unet.quantize import activation_quantizers
from dgq.unet.quantized_unet import QuantizedUNet

__all__ = [
    "FOLDER",
    "GenerationSettings",
    "Manifest",
    "calibration_state",
    "find_model",
    "has_model",
    "load_calibration_state_",
    "load_quantized_unet",
    "packed_state",
    "quantized_folder",
    "read_manifest",
    "save_quantized",
]

log = logging.getLogger(__name__)


@torch_defaults()
def save_quantized(unet: UNet2DConditionModel, folder: str | Path, manifest: Manifest) -> None:
    """Write a calibrated or loaded UNet: packed weights, then the description.

    Raises:
        DGQError: if the UNet is not calibrated, the description is that of another UNet, or the
            folder cannot be written into; then nothing is written.
    """
    folder = checked_path(folder, "save_quantized")
    if not isinstance(unet, QuantizedUNet):
        raise DGQError(
            f"save_quantized: expected a calibrated UNet, got a {type(unet).__name__}; dgq.save "
            "takes what dgq.calibrate returns"
        )
    if not isinstance(manifest, Manifest):
        raise DGQError(f"save_quantized: expected a dgq.Manifest, got {type(manifest).__name__}")
    state = packed_state(unet, manifest.quantization)
    try:
        fill_(empty_quantized_unet(manifest), state)
    except DGQError as error:
        raise DGQError(f"the manifest describes another UNet than this one: {error}") from error
    check_writable(folder, "the folder")
    write_model(folder, manifest, state)


def packed_state(unet: nn.Module, settings: QuantizationSettings) -> dict[str, Tensor]:
    """The tensors of a quantized UNet as stored: packed, without anything that only calibrates.

    Raises:
        DGQError: if the calibration has not finished, or loading rounded some tensors.
    """
    if isinstance(unet.calls, QuantizationContext):
        check_calibrated(unet)
        return frozen_state(unet.state_dict(), settings)
    if unet.precision is not None:
        raise DGQError(
            f"this UNet computes in {unet.precision}, which rounded what is not quantized: load it "
            "with dtype=torch.float32 to save it, or copy its folder"
        )
    return dict(unet.state_dict())


def has_model(folder: Path) -> bool:
    """Whether a folder itself holds a quantized model, even a damaged one."""
    if (folder / FIRST_CONFIG_FILE).is_file():
        return True
    file = folder / CONFIG_FILE
    try:
        return file.is_file() and is_quantized(read_json(file))
    except DGQError:
        return True  # damaged: whoever reads it says so


def quantized_folder(path: str | Path) -> Path:
    """The folder of a quantized model: ``path`` itself, or one inside a run or pipeline.

    Raises:
        DGQError: if there is none.
    """
    path = checked_path(path, "a quantized model")
    for folder in (path / place for place in PLACES):
        if has_model(folder):
            return folder
    reason = "no quantized model in it" if path.exists() else "it does not exist"
    raise DGQError(
        f"{path} cannot be used as a checkpoint: {reason}; expected the folder of a finished run, "
        "such as outputs/w4a8 (`python train.py fit --config w4a8.yaml` makes it)"
    )


def find_model(path: str | Path, variant: str | None = None) -> ModelFiles | FirstFiles:
    """The files of the quantized model that ``path`` names; raises DGQError if there is none."""
    folder = quantized_folder(path)
    is_first = (folder / FIRST_CONFIG_FILE).is_file()
    return FirstFiles(folder) if is_first else ModelFiles(folder, variant)


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a run folder or of a quantized model's folder.

    Raises:
        DGQError: if it is missing, damaged, or of another format.
    """
    return find_model(path).manifest()


@torch_defaults()
def load_quantized_unet(
    path: str | Path,
    execution: Mode = "auto",
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    variant: str | None = None,
) -> UNet2DConditionModel:
    """A quantized UNet from a run folder or a quantized model's folder, ready to run.

    Loading is strict and needs no calibration, no forward pass and no full-precision weights.

    Args:
        path: the folder.
        execution: ``integer``, ``float``, or ``auto``, which uses integers where this machine
            multiplies them exactly and fast; ``unet.execution`` says how layers run.
        dtype: dtype of the unquantized parts; by default bfloat16 with integers where the CPU
            supports it, else float32.
        device: where it runs; integers on a CPU, or on a GPU with Triton.
        variant: variant of the weights files, if ``save_pretrained`` was given one.

    Raises:
        DGQError: if files are missing, damaged, or do not belong together, or integers were
            requested and cannot be used.
    """
    check_mode(execution)
    check_precision(dtype)
    if variant is not None:
        check_variant(variant)
    device = usable_device(device)
    files = find_model(path, variant)
    manifest, state = files.read()
    try:
        unet = empty_quantized_unet(manifest)
    except DGQError:
        raise
    except Exception as error:  # whatever diffusers raises for a configuration of no UNet
        raise DGQError(f"{files.config_file} describes no UNet: {error}") from error
    try:
        fill_(unet, state)
    except DGQError as error:
        described = files.config_file.name
        raise DGQError(
            f"{files.weight_files[0]} does not fit the UNet in {described}: {error}"
        ) from error
    state.clear()  # codes are freed as soon as their layer is folded
    unet = unet.eval().requires_grad_(False).to(device)
    attach_(unet, manifest)
    unet.register_to_config(**{PLACE: str(files)})
    prepare_(unet, execution, dtype)
    log.info("%s: %s", path, unet.execution)
    return unet


def calibration_state(unet: nn.Module) -> dict[str, Tensor]:
    """The findings of a calibration so far: finished weights, observed and learned ranges."""
    finished = {
        f"{name}.weight_quantizer"
        for name, layer in quantized_layers(unet).items()
        if layer.weight_quantizer is not None and layer.weight_quantizer.codes.numel()
    }
    finished |= {name for name, q in activation_quantizers(unet).items() if q.scale.numel()}
    return {
        name: tensor
        for name, tensor in unet.state_dict().items()
        if tensor.numel() and (".observer." in name or name.rpartition(".")[0] in finished)
    }


def load_calibration_state_(unet: nn.Module, state: dict[str, Tensor]) -> None:
    """Load what ``calibration_state`` returned.

    Raises:
        DGQError: if it holds tensors that this UNet has no place for.
    """
    unexpected = unet.load_state_dict(state, strict=False).unexpected_keys
    if unexpected:
        raise DGQError(
            f"the checkpoint belongs to another model: it holds {unexpected[0]} and "
            f"{len(unexpected) - 1} more tensors that this UNet has no place for"
        )
