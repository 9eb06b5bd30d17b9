"""Inspection of a quantized model, which is read and checked as for running it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgq.inference.execution import prepare_
from dgq.inspection.full_size import full_precision_bytes
from dgq.inspection.layers import (
    activation_groups,
    activation_multiples,
    activations,
    kept_layers,
    layer_kinds,
    weight_exponents,
)
from dgq.inspection.memory import resident_bytes
from dgq.storage.checkpoint import find_model, load_quantized_unet
from dgq.storage.described_settings import described
from dgq.storage.first_formats import FirstFiles
from dgq.storage.manifest import Manifest
from dgq.storage.model_files import ModelFiles

SEALED = "description and tensors agree with the seal"
HASHED = "weights have the hash in the description"


def inspect_model(path: str | Path) -> dict[str, Any]:
    """What a quantized model holds and how it would run here, as plain values for JSON.

    Args:
        path: folder of a run, of a model in any format, or of a pipeline.

    Raises:
        DGQError: if it is missing, damaged, or does not belong together.
    """
    files = find_model(path)
    unet = load_quantized_unet(path, "float")
    manifest = files.manifest()
    contents = {
        "layers": [asdict(kind) for kind in layer_kinds(unet)],
        "kept": kept_layers(unet),
        "activations": activations(unet),
        "weight_exponents": weight_exponents(unet),
        "activation_multiples": activation_multiples(unet),
        "activation_groups": activation_groups(unet),
    }
    packed = resident_bytes(unet)
    execution = prepare_(unet, "auto")
    return {
        "folder": str(files),
        "format": files.format(),
        "verified": HASHED if isinstance(files, FirstFiles) else SEALED,
        "sha256": manifest.sha256,
        "unet_sha256": manifest.unet_sha256 or None,
        "pipeline": manifest.pipeline or None,
        "recipe": described(manifest.quantization),
        **contents,
        "generation": asdict(manifest.generation),
        "timesteps": list(manifest.timesteps),
        "latent_size": list(manifest.latent_size),
        "n_prompts": len(manifest.prompt_hashes) or None,
        "bytes": sizes(files, manifest, packed, resident_bytes(unet)),
        "execution": asdict(execution) | {"features": list(execution.features)},
    }


def sizes(
    files: ModelFiles | FirstFiles, manifest: Manifest, packed: int, running: int
) -> dict[str, int]:
    """Bytes of the UNet.

    Args:
        files: of the model.
        manifest: of it.
        packed: bytes in memory if layers compute in floating point.
        running: bytes in memory as it runs here.
    """
    return {
        "on_disk": files.size(),
        "in_memory": running,
        "in_memory_packed": packed,
        "full_precision": full_precision_bytes(manifest.unet_config),
    }
