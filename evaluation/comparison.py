"""The subjects of a comparison: a full-precision pipeline, and quantized UNets for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from diffusers import DiffusionPipeline
from torch import nn

from data.embedded import DEFAULT_PIPELINE
from dgq.errors import DGQError
from dgq.inference.execution import Mode
from dgq.pipelines.files import pipeline_sha256
from dgq.pipelines.loading import load_pipeline
from dgq.pipelines.sources import resolve
from dgq.storage import checkpoint
from dgq.storage.checkpoint import GenerationSettings
from evaluation.generation_settings import chosen_generation
from evaluation.images.sampling import check_drawable
from evaluation.models import Model, check_same_architecture, check_same_weights
from evaluation.settings import EvaluationSettings

SAMPLING_OPTIONS = "--height, --width or --num-inference-steps"


@dataclass(frozen=True)
class Comparison:
    """A pipeline, and UNets for it.

    Args:
        models: full precision first.
        source: hub id or folder of the pipeline.
        pipeline: the full-precision pipeline.
        pipeline_sha256: hash of everything that it was loaded from.
        generation: how images are sampled.
        execution: how quantized UNets run.
        device: device of everything.
        latent_size: height and width of the latents.
    """

    models: list[Model]
    source: str
    pipeline: DiffusionPipeline
    pipeline_sha256: str
    generation: GenerationSettings
    execution: Mode
    device: str
    latent_size: tuple[int, int]
    _loaded: dict[int, nn.Module] = field(default_factory=dict, init=False, repr=False)

    def unet(self, model: int) -> nn.Module:
        """The UNet of a model, on its device; the quantized one that was loaded last stays."""
        folder = self.models[model].checkpoint
        if folder is None:
            full_precision: nn.Module = self.pipeline.unet
            return full_precision
        if model not in self._loaded:
            self._loaded.clear()  # before another takes its memory
            self._loaded[model] = checkpoint.load_quantized_unet(
                folder, self.execution, device=self.device
            )
        return self._loaded[model]

    @property
    def is_square(self) -> bool:
        """Whether images are drawn as squares."""
        height, width = self.latent_size
        return height == width

    def timesteps(self) -> Sequence[float]:
        """The scheduler's values that the sampler visits."""
        scheduler = self.pipeline.scheduler
        scheduler.set_timesteps(self.generation.num_inference_steps)
        return list(map(float, scheduler.timesteps))

    def notes(self) -> Iterator[str]:
        """A note on each model that lacks scales for some of these steps, or is of another size."""
        visited = set(self.timesteps())
        for model in self.models:
            if model.manifest is None:
                continue
            by_step = model.manifest.quantization.follows_steps
            if by_step and not visited <= set(model.manifest.timesteps):
                yield (
                    f"{model.name} was not calibrated for these sampler steps: the scales of the "
                    "nearest calibrated ones were used"
                )
            if model.manifest.latent_size != self.latent_size:
                yield (
                    f"{model.name} was calibrated on latents of "
                    f"{_size_text(model.manifest.latent_size)}, these images have "
                    f"{_size_text(self.latent_size)}"
                )


def _size_text(size: tuple[int, int]) -> str:
    height, width = size
    return f"{height} x {width}"


def load_comparison(
    settings: EvaluationSettings, models: Sequence[Model], source: str, prompt: str, device: str
) -> Comparison:
    """Load the pipeline and every UNet, and check that they belong together.

    Args:
        settings: what the user asked.
        models: full precision first.
        source: hub id or folder of the pipeline.
        prompt: any prompt that will be drawn.
        device: of everything.

    Raises:
        DGQError: if something is missing or damaged, does not fit, or cannot draw as it is asked.
    """
    generation = chosen_generation(settings.protocol, models, source)
    pipeline = load_pipeline(source).to(device)
    sha256 = pipeline_sha256(resolve(source))
    execution = settings.protocol.execution
    latents = check_drawable(pipeline, prompt, generation, SAMPLING_OPTIONS)
    made = Comparison(
        list(models), source, pipeline, sha256, generation, execution, device, latents
    )
    for number, model in enumerate(models):
        unet = made.unet(number)
        check_same_architecture(pipeline.unet, unet, model.name, source)
        if model.checkpoint is not None:
            made.models[number] = replace(model, execution=getattr(unet, "execution", None))
    check_same_weights(pipeline.unet, made.models, source)
    return made


def chosen_source(settings: EvaluationSettings, models: Sequence[Model]) -> str:
    """The pipeline that the user names, or the one that all models were calibrated on."""
    if settings.pipeline is not None:
        return settings.pipeline
    calibrated = {m.name: m.manifest.pipeline for m in models if m.manifest is not None}
    sources = set(calibrated.values())
    if len(sources) > 1:
        pairs = ", ".join(f"{name} of {source}" for name, source in calibrated.items())
        raise DGQError(f"these models are of different pipelines ({pairs}): evaluate each alone")
    return next(iter(sources), DEFAULT_PIPELINE)
