"""Quantized models on disk: packed weights as safetensors, everything else as JSON."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from dgq.context import QuantizationContext
from dgq.errors import DGQError, SettingsError
from dgq.files import read_tensors, sha256_of, write_json, write_tensors
from dgq.inference.build import build_, fill_
from dgq.inference.execution import Mode, prepare_
from dgq.inference.freeze import check_calibrated, frozen_state
from dgq.layers import quantized_layers
from dgq.pipeline_files import check_sizes
from dgq.quantize import activation_quantizers
from dgq.settings import (
    ActivationSettings,
    QuantizationSettings,
    ScoreSettings,
    WeightSettings,
    check_positive,
)

FORMAT = "dgq-2"
FIRST_FORMAT = "dgq-1"
"""Stored the modules of a calibration; read for ever, no longer written."""

WEIGHTS_FILE = "quantized.safetensors"
MANIFEST_FILE = "quantization.json"
FOLDER = "quantized"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationSettings:
    """How the pipeline is run, in calibration and by default in evaluation.

    Args:
        num_inference_steps: steps of the sampler.
        guidance_scale: classifier-free guidance; 1 or less switches it off.
        height: of the image in pixels; the model's own by default.
        width: of the image in pixels; the model's own by default.
    """

    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        check_positive("num_inference_steps", self.num_inference_steps)
        if (self.height is None) != (self.width is None):
            raise SettingsError("height and width go together: pipelines ignore one alone")
        for name, value in (("height", self.height), ("width", self.width)):
            if value is not None:
                check_positive(name, value)


@dataclass(frozen=True)
class Manifest:
    """What a quantized model consists of, apart from its tensors.

    Args:
        pipeline: where the full-precision pipeline comes from (text encoder, VAE, scheduler).
        unet_config: configuration of the stock UNet.
        quantization: settings of the quantization.
        generation: settings of the sampler it was calibrated for.
        timesteps: the scheduler's values that activation scales exist for.
        latent_size: height and width of the latents of the calibration.
        unet_sha256: of the full-precision UNet's tensors; empty where nobody noted them.
        weights_sha256: of the weights' file.
    """

    pipeline: str
    unet_config: dict[str, Any]
    quantization: QuantizationSettings
    generation: GenerationSettings
    timesteps: tuple[float, ...]
    latent_size: tuple[int, int]
    unet_sha256: str = ""
    weights_sha256: str = ""


def save_quantized(unet: UNet2DConditionModel, folder: Path, manifest: Manifest) -> None:
    """Write a calibrated or loaded UNet as packed weights and a manifest, the manifest last."""
    weights = folder / WEIGHTS_FILE
    write_tensors(weights, packed_state(unet, manifest.quantization), {"format": FORMAT})
    content = {"format": FORMAT, **asdict(manifest), "weights_sha256": sha256_of(weights)}
    write_json(folder / MANIFEST_FILE, content)


def packed_state(unet: nn.Module, settings: QuantizationSettings) -> dict[str, Tensor]:
    """The tensors of a quantized UNet as they are stored: packed, with nothing that calibrated.

    Raises:
        DGQError: if the calibration has not finished, or tensors were rounded when it was loaded.
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


def quantized_folder(path: str | Path) -> Path:
    """The folder of the quantized model: ``path`` itself, or ``path/quantized`` of a run.

    Raises:
        DGQError: if there is none.
    """
    path = Path(path)
    for folder in (path, path / FOLDER):
        if (folder / MANIFEST_FILE).is_file():
            return folder
    reason = "no quantized model in it" if path.exists() else "it does not exist"
    raise DGQError(
        f"{path} cannot be used as a checkpoint: {reason}; expected the folder of a finished run, "
        "such as outputs/w4a8 (`python train.py fit --config w4a8.yaml` makes it)"
    )


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a run folder or of a quantized model's folder.

    Raises:
        DGQError: if it is missing, damaged, or of another format.
    """
    file = quantized_folder(path) / MANIFEST_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content.pop("format")
        if version not in (FORMAT, FIRST_FORMAT):
            raise DGQError(
                f"{file} is of another format, {version}: expected {FORMAT} or {FIRST_FORMAT}; "
                "a newer dgq may read it"
            )
        quantization = content.pop("quantization")
        return Manifest(
            **content
            | {
                "quantization": quantization_settings(quantization),
                "generation": GenerationSettings(**content["generation"]),
                "timesteps": tuple(content["timesteps"]),
                "latent_size": tuple(content["latent_size"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DGQError(f"{file} is damaged ({error!r}): restore it, or make it again") from error


def quantization_settings(content: dict[str, Any]) -> QuantizationSettings:
    """Settings from what ``dataclasses.asdict`` made of them."""
    return QuantizationSettings(
        WeightSettings(**content["weights"]),
        ActivationSettings(**content["activations"]),
        ScoreSettings(**content["scores"]),
        tuple(content["keep"]),
    )


def load_quantized_unet(
    path: str | Path,
    execution: Mode = "auto",
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> UNet2DConditionModel:
    """A quantized UNet from a run folder or a quantized model's folder, ready to run.

    Loading is strict and needs no calibration, no forward pass and no full-precision weights.

    Args:
        path: of the folder.
        execution: ``integer``, ``float``, or ``auto``, which takes integers where this machine
            multiplies them exactly and fast; ``unet.execution`` says what runs.
        dtype: of everything that is not quantized; by default bfloat16 with integers where the CPU
            computes in it, else float32.
        device: where it runs; integers run on a CPU only, so far.

    Raises:
        DGQError: if files are missing, damaged, or do not belong together, or integers are asked
            for and cannot be used.
    """
    manifest = read_manifest(path)
    file = quantized_folder(path) / WEIGHTS_FILE
    state, metadata = read_tensors(file)
    first = metadata.get("format") == FIRST_FORMAT
    known = first or metadata.get("format") == FORMAT
    if not known or sha256_of(file) != manifest.weights_sha256:
        raise DGQError(f"{file} is not the one that {MANIFEST_FILE} beside it describes")
    check_sizes(manifest.unet_config, len(state), file.with_name(MANIFEST_FILE))
    try:
        unet = empty_quantized_unet(manifest)
    except DGQError:
        raise
    except Exception as error:  # whatever diffusers raises for a configuration of no UNet
        raise DGQError(f"{file.with_name(MANIFEST_FILE)} describes no UNet: {error}") from error
    try:
        fill_(unet, frozen_state(state, manifest.quantization) if first else state)
    except DGQError as error:
        raise DGQError(f"{file} does not fit the UNet in {MANIFEST_FILE}: {error}") from error
    state.clear()  # codes are freed as soon as their layer is folded
    unet = unet.eval().requires_grad_(False).to(device)
    unet.execution = prepare_(unet, execution, dtype)
    log.info("%s: %s", path, unet.execution)
    return unet


def empty_quantized_unet(manifest: Manifest) -> UNet2DConditionModel:
    """A UNet of inference modules without tensors, on the meta device, to be filled."""
    with init_empty_weights(include_buffers=True):
        unet = UNet2DConditionModel.from_config(manifest.unet_config)
    build_(unet, manifest.quantization, manifest.timesteps, manifest.latent_size)
    return unet


def calibration_state(unet: nn.Module) -> dict[str, Tensor]:
    """What a calibration has found so far: finished weights, observed and learned ranges."""
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
    """Take up what ``calibration_state`` returned.

    Raises:
        DGQError: if it holds tensors that this UNet has no place for.
    """
    unexpected = unet.load_state_dict(state, strict=False).unexpected_keys
    if unexpected:
        raise DGQError(
            f"the checkpoint belongs to another model: it holds {unexpected[0]} and "
            f"{len(unexpected) - 1} more tensors that this UNet has no place for"
        )
