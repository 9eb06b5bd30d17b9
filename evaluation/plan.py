"""Everything an evaluation needs, loaded and checked before any work starts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

from data.embedded import (
    DEFAULT,
    DEFAULT_PIPELINE,
    benchmark_of_pipeline,
    default_generation,
)
from dgq.errors import DGQError
from dgq.pipelines import loading
from dgq.pipelines.files import pipeline_sha256
from dgq.storage import checkpoint
from dgq.storage.checkpoint import GenerationSettings
from evaluation.drawing import Job
from evaluation.extractors import Extractors
from evaluation.generation import check_drawable
from evaluation.models import (
    FULL_PRECISION,
    Model,
    check_same_architecture,
    check_same_weights,
    find_models,
)
from evaluation.perceptual import Judges, find_judges
from evaluation.prompts import Prompts, load_prompts
from evaluation.references import check_references
from evaluation.settings import EvaluationSettings
from evaluation.store import ImageStore

SAMPLING_OPTIONS = "--height, --width or --num-inference-steps"
PROBE = Image.new("RGB", (64, 64))
"""An image that every extractor looks at before hours of drawing."""


@dataclass(frozen=True)
class Plan:
    """What an evaluation works with.

    Args:
        settings: what the user asked.
        models: full precision first.
        source: hub id or folder of the pipeline.
        prompts: one for each image.
        generation: how images are sampled.
        devices: one process draws on each; the first measures.
        pipeline: in full precision.
        pipeline_sha256: of all that it was loaded from.
        extractors: that look at the images.
        judges: optional metrics of images.
    """

    settings: EvaluationSettings
    models: list[Model]
    source: str
    prompts: Prompts
    generation: GenerationSettings
    devices: list[str]
    pipeline: DiffusionPipeline
    pipeline_sha256: str
    extractors: Extractors
    judges: Judges

    @property
    def device(self) -> str:
        """Where everything runs in this process."""
        return self.devices[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the noise."""
        return self.settings.protocol.seeds

    @property
    def n_recorded(self) -> int:
        """Prompts whose full-precision UNet calls are recorded, to repeat them quantized."""
        if len(self.models) == 1:
            return 0
        return min(self.settings.protocol.sqnr_prompts, len(self.prompts.captions))

    @property
    def batch_size(self) -> int:
        """Rows of every batch, whole ones alone: the last bits of an image depend on it."""
        return min(self.settings.batch_size, len(self.prompts.captions))

    @cached_property
    def jobs(self) -> list[Job]:
        """The images of each model with each seed; full precision first, seeds in order."""
        return [
            Job(
                number,
                model.name + (f", seed {seed}" if len(self.seeds) > 1 else ""),
                self._store(model, seed),
                seed,
                self.n_recorded if model.checkpoint is None and seed == self.seeds[0] else 0,
            )
            for number, model in enumerate(self.models)
            for seed in self.seeds
        ]

    def stores(self, model: int) -> list[ImageStore]:
        """Images of a model, one store for each seed."""
        return [job.store for job in self.jobs if job.model == model]

    def unet(self, model: int) -> nn.Module:
        """The UNet of a model, on its device."""
        folder = self.models[model].checkpoint
        if folder is None:
            return self.pipeline.unet
        execution = self.settings.protocol.execution
        return checkpoint.load_quantized_unet(folder, execution, device=self.device)

    def timesteps(self) -> Sequence[float]:
        """The scheduler's values that the sampler visits."""
        scheduler = self.pipeline.scheduler
        scheduler.set_timesteps(self.generation.num_inference_steps)
        return scheduler.timesteps.tolist()

    def _store(self, model: Model, seed: int) -> ImageStore:
        protocol = self.settings.protocol
        settings: dict[str, Any] = {
            **asdict(self.generation),
            "seed": seed,
            "batch_size": self.batch_size,
            "prompts": self.prompts.identity,
            "pipeline_sha256": self.pipeline_sha256,
            "unet": model.sha256 or FULL_PRECISION,
            "device": torch.device(self.device).type,
        }
        if model.execution is not None:
            settings["execution"] = model.execution.arithmetic
        name = f"{model.name.replace(' ', '_')}-seed{seed}"
        return ImageStore(
            *(self.settings.images, name, settings, self.prompts.captions),
            *(protocol.jpeg_quality, protocol.measured_size),
        )


def prepare(settings: EvaluationSettings) -> Plan:
    """Load and check everything; nothing is written.

    Raises:
        DGQError: if anything is missing, damaged, or does not fit together.
    """
    protocol = settings.protocol
    models = find_models(settings.ckpt)
    source = _source(settings, models)
    benchmark = benchmark_of_pipeline(source) or DEFAULT
    prompts = load_prompts(protocol.prompts, protocol.num_images, protocol.seeds[0], benchmark)
    devices = find_devices(settings.device, settings.devices)
    extractors = Extractors(protocol, prompts.benchmark, devices[0])
    dimensions = extractors.look([[PROBE]], 1).features.shape[1]
    check_references(protocol.references, dimensions)
    judges = find_judges(protocol, devices[0])
    pipeline = loading.load_pipeline(source).to(devices[0])
    plan = Plan(
        settings=settings,
        models=models,
        source=source,
        prompts=prompts,
        generation=_generation(settings, models, source),
        devices=devices,
        pipeline=pipeline,
        pipeline_sha256=pipeline_sha256(loading.resolve(source)),
        extractors=extractors,
        judges=judges,
    )
    for number, model in enumerate(models):
        unet = plan.unet(number)
        check_same_architecture(pipeline.unet, unet, model.name, source)
        if model.checkpoint is not None:
            models[number] = replace(model, execution=getattr(unet, "execution", None))
    check_same_weights(pipeline.unet, models, source)
    check_drawable(pipeline, prompts.captions[0], plan.generation, SAMPLING_OPTIONS)
    for job in plan.jobs:
        job.store.check()
    return plan


def find_devices(name: str | None, n: int) -> list[str]:
    """Devices of n processes: a GPU for each, or as many processes on the CPU.

    Raises:
        DGQError: if there is no such device, or not as many.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise DGQError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    if n == 1 or torch.device(name).type == "cpu":
        return [name] * n
    available = torch.cuda.device_count()
    if torch.device(name).index is not None or n > available:
        raise DGQError(
            f"--devices {n} with --device {name}: there are {available} GPUs; give a number of at "
            "most that, and --device without an index"
        )
    return [f"{name}:{index}" for index in range(n)]


def _source(settings: EvaluationSettings, models: Sequence[Model]) -> str:
    """The pipeline that the user names, or that all models were calibrated on."""
    if settings.pipeline is not None:
        return settings.pipeline
    calibrated = {m.name: m.manifest.pipeline for m in models if m.manifest is not None}
    sources = set(calibrated.values())
    if len(sources) > 1:
        pairs = ", ".join(f"{name} of {source}" for name, source in calibrated.items())
        raise DGQError(f"these models are of different pipelines ({pairs}): compare them apart")
    return next(iter(sources), DEFAULT_PIPELINE)


def _generation(
    settings: EvaluationSettings, models: Sequence[Model], source: str
) -> GenerationSettings:
    """What the protocol says; where it says nothing, what the models were calibrated for."""
    calibrated = [m.manifest.generation for m in models if m.manifest is not None]
    default = calibrated[0] if calibrated else default_generation(source)
    protocol = settings.protocol
    names = ("num_inference_steps", "guidance_scale", "height", "width")
    asked = {n: getattr(protocol, n) for n in names if getattr(protocol, n) is not None}
    for other in calibrated:
        if replace(other, **asked) != replace(default, **asked):
            raise DGQError(
                f"these models were calibrated for different sampling ({default} and {other}): "
                "say which to compare them with (--num-inference-steps, --guidance-scale, "
                "--height, --width)"
            )
    return replace(default, **asked)
