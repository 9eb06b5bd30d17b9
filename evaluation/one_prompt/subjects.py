"""The pipeline and the UNets that draw, checked before any work."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from data.embedded import DEFAULT_PIPELINE, default_generation
from dgq.errors import DGQError
from dgq.pipelines.files import INDEX
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.storage.checkpoint import GenerationSettings, Manifest, load_quantized_unet
from evaluation.models import (
    FULL_PRECISION,
    check_same_architecture,
    check_same_weights,
    find_models,
)
from evaluation.one_prompt.settings import PictureSettings


@dataclass(frozen=True)
class Subject:
    """One UNet that draws.

    Args:
        name: name for labels and the report.
        load: loads it on its device; a UNet is in memory only while it draws.
    """

    name: str
    load: Callable[[], nn.Module]


@dataclass(frozen=True)
class Subjects:
    """Everything that draws one prompt.

    Args:
        pipeline: the pipeline without a UNet.
        subjects: UNets, in the order in which they are shown.
        generation: sampling of the pipeline.
    """

    pipeline: DiffusionPipeline
    subjects: list[Subject]
    generation: GenerationSettings


def find_subjects(settings: PictureSettings, device: str) -> Subjects:
    """Load a pipeline with the requested UNet, and check what it is compared with.

    Raises:
        DGQError: if something is missing, damaged, or does not fit.
    """
    models = find_models([] if settings.ckpt is None else [settings.ckpt])
    model = models[-1]
    generation = asked_for(settings, model.manifest)
    if model.checkpoint is None:
        source = settings.pipeline or DEFAULT_PIPELINE
        pipeline = load_pipeline(source).to(device)
        unet = pipeline.unet
        return Subjects(pipeline, [Subject(FULL_PRECISION, lambda: unet)], generation)
    folder = model.checkpoint
    quantized = Subject(
        model.name, lambda: load_quantized_unet(folder, settings.execution, device=device)
    )
    unet = quantized.load()
    subjects = [quantized]
    if settings.compare:
        source = settings.pipeline or origin(model.manifest, "--compare")
        subjects.insert(0, Subject(FULL_PRECISION, lambda: load_unet(source).to(device)))
        stock = subjects[0].load()
        check_same_architecture(stock, unet, model.name, source)
        check_same_weights(stock, models, source)
        del stock
    pipeline = load_pipeline(source_of(settings, model.manifest), unet).to(device)
    check_text_width(pipeline, unet, model.name)
    return Subjects(pipeline, subjects, generation)


def source_of(settings: PictureSettings, manifest: Manifest | None) -> str:
    """The pipeline for a quantized UNet: the named one, the one around it, or its origin."""
    if settings.pipeline is not None:
        return settings.pipeline
    assert settings.ckpt is not None
    if (settings.ckpt / INDEX).is_file():
        return str(settings.ckpt)
    return origin(manifest, f"--ckpt {settings.ckpt}")


def origin(manifest: Manifest | None, what: str) -> str:
    """The pipeline that a model was made from; raises DGQError if this was not recorded."""
    if manifest is None or not manifest.pipeline:
        raise DGQError(
            f"{what}: the model does not say which pipeline it was made from: give --pipeline"
        )
    return manifest.pipeline


def asked_for(settings: PictureSettings, manifest: Manifest | None) -> GenerationSettings:
    """The sampling: as the user says, else as the model was calibrated for."""
    default = default_generation(settings.pipeline or DEFAULT_PIPELINE)
    if manifest is not None:
        default = manifest.generation
    given: dict[str, Any] = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "height": settings.height,
        "width": settings.width,
    }
    generation = replace(default, **{k: v for k, v in given.items() if v is not None})
    if settings.negative is not None and generation.guidance_scale <= 1:
        raise DGQError(
            f"--negative changes nothing at guidance {generation.guidance_scale:g}: raise "
            "--guidance above 1, or leave it out"
        )
    return generation


def check_text_width(pipeline: DiffusionPipeline, unet: Any, name: str) -> None:
    """Raise DGQError unless a pipeline's text embeddings are as wide as the UNet expects."""
    expected, given = unet.config.cross_attention_dim, width_of_text(pipeline)
    projected = unet.config.encoder_hid_dim is not None
    if isinstance(expected, int) and not projected and given != expected:
        raise DGQError(
            f"{name} was made for another model than this pipeline: it reads {expected} "
            f"values of a word, the pipeline has {given}; give the --pipeline that it was made from"
        )


def width_of_text(pipeline: DiffusionPipeline) -> int:
    """Width of a token's embedding, summed over two text encoders if there are two."""
    encoders = ("text_encoder", "text_encoder_2")
    found = [pipeline.components[name] for name in encoders if pipeline.components.get(name)]
    return sum(encoder.config.hidden_size for encoder in found)
