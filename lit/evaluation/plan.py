"""Everything an evaluation needs, loaded and checked before any work starts."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

import scenes
from dgq import checkpoint, pipelines
from dgq.errors import DGQError
from lit.evaluation.features import ClipExtractor
from lit.evaluation.fingerprint import pipeline_fingerprint
from lit.evaluation.generation import Sampling
from lit.evaluation.images import list_images
from lit.evaluation.prompts import Prompts, load_prompts
from lit.evaluation.settings import EvaluationSettings
from lit.evaluation.store import ImageStore, check_stores


@dataclass(frozen=True)
class Plan:
    """What an evaluation works with.

    Args:
        settings: what the user asked.
        output: folder of the results.
        source: hub id or folder of the pipeline.
        manifest: of the quantized model.
        prompts: one for each image.
        sampling: how images are sampled.
        device: where everything runs.
        pipeline: in full precision.
        quantized: the quantized UNet.
        clip: the model that measures.
        references: files of real images, if a folder was given.
        full_precision_images: where the images of the pipeline go.
        quantized_images: where those with the quantized UNet go.
    """

    settings: EvaluationSettings
    output: Path
    source: str
    manifest: checkpoint.Manifest
    prompts: Prompts
    sampling: Sampling
    device: str
    pipeline: DiffusionPipeline
    quantized: nn.Module
    clip: ClipExtractor
    references: list[Path] | None
    full_precision_images: ImageStore
    quantized_images: ImageStore


def prepare(settings: EvaluationSettings) -> Plan:
    """Load and check everything; nothing is written.

    Raises:
        DGQError: if anything is missing, damaged, or does not fit together.
    """
    manifest = checkpoint.read_manifest(settings.ckpt)
    prompts = load_prompts(settings.prompts, settings.num_images, settings.seed)
    references = list_images(settings.references) if settings.references else None
    device = _device(settings.device)
    source = settings.pipeline or manifest.pipeline
    pipeline = pipelines.load_pipeline(source).to(device)
    quantized = checkpoint.load_quantized_unet(settings.ckpt).to(device)
    _check_same_architecture(pipeline.unet, quantized, source)
    sampling = _sampling(settings, manifest.generation)
    output = settings.output or run_folder(settings.ckpt) / "evaluation"
    stores = _stores(settings, output, pipeline, prompts, sampling, manifest.weights_sha256)
    clip = ClipExtractor(settings.clip or scenes.CLIP_DIR, device)
    return Plan(
        settings=settings,
        output=output,
        source=source,
        manifest=manifest,
        prompts=prompts,
        sampling=sampling,
        device=device,
        pipeline=pipeline,
        quantized=quantized,
        clip=clip,
        references=references,
        full_precision_images=stores[0],
        quantized_images=stores[1],
    )


def run_folder(ckpt: Path) -> Path:
    """Folder of the run that a quantized model belongs to."""
    return ckpt.parent if ckpt.name == "quantized" else ckpt


def _stores(
    settings: EvaluationSettings,
    output: Path,
    pipeline: DiffusionPipeline,
    prompts: Prompts,
    sampling: Sampling,
    checkpoint_sha256: str,
) -> tuple[ImageStore, ImageStore]:
    """Stores of both pipelines, checked against what is on disk."""
    if output.exists() and not output.is_dir():
        raise DGQError(f"--output {output} is not a folder")
    own = output / "images" / "full_precision"
    folders = settings.full_precision_images or own, output / "images" / "quantized"
    if folders[0].resolve() == folders[1].resolve():
        raise DGQError(f"--full-precision-images {folders[0]} is where quantized images go")
    common = {
        **asdict(sampling),
        "pipeline_sha256": pipeline_fingerprint(pipeline),
        "device": pipeline.device.type,
    }
    captions = list(prompts.captions)
    full_precision = ImageStore(folders[0], {**common, "unet": "full precision"}, captions)
    quantized = ImageStore(folders[1], {**common, "unet": checkpoint_sha256}, captions)
    check_stores([full_precision, quantized], settings.overwrite)
    return full_precision, quantized


def _sampling(settings: EvaluationSettings, calibrated: checkpoint.GenerationSettings) -> Sampling:
    """The calibrated settings, where the user asks for nothing else."""
    steps, guidance = settings.num_inference_steps, settings.guidance_scale
    return Sampling(
        num_inference_steps=calibrated.num_inference_steps if steps is None else steps,
        guidance_scale=calibrated.guidance_scale if guidance is None else guidance,
        seed=settings.seed,
        height=calibrated.height,
        width=calibrated.width,
    )


def _device(name: str | None) -> str:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise DGQError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return name


def _check_same_architecture(unet: nn.Module, quantized: nn.Module, source: str) -> None:
    """Raise DGQError if the quantized UNet is not one of this pipeline's."""
    expected, actual = _architecture(unet), _architecture(quantized)
    for name in sorted(expected.keys() | actual.keys()):
        theirs, ours = expected.get(name), actual.get(name)
        if theirs != ours:
            raise DGQError(
                f"the checkpoint is of another model than {source}: "
                f"{name} is {ours!r} there and {theirs!r} in the pipeline"
            )


def _architecture(unet: Any) -> dict[str, Any]:
    config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    config.pop("quantization_config", None)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
