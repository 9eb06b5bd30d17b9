"""The manifest: everything that a quantized model consists of besides its tensors."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from dgq.errors import DGQError, SettingsError
from dgq.settings import QuantizationSettings, check_positive, check_types
from dgq.settings.steps import problem_of_steps
from dgq.storage.described_settings import described, quantization_settings
from dgq.unet.configuration import building

FORMAT = "dgq-3"
METHOD = "dgq"
"""``quant_method`` of a configuration, by which diffusers finds the loader."""

QUANTIZATION = "quantization_config"
"""Key under which diffusers keeps it in a model's configuration."""

MOST_STEPS = 10_000
"""Most steps of a sampler; much longer schedules would not fit into memory."""


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
        if self.num_inference_steps > MOST_STEPS:
            raise SettingsError(
                f"num_inference_steps must be at most {MOST_STEPS}, got {self.num_inference_steps}"
            )
        check_types(self)
        if not math.isfinite(self.guidance_scale):
            raise SettingsError(f"guidance_scale must be finite, got {self.guidance_scale}")
        # A whole number, which is a float for whoever calls, would be written as another text.
        object.__setattr__(self, "guidance_scale", float(self.guidance_scale))
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
        unet_sha256: hash of the full-precision UNet's tensors; empty if it was not recorded.
        prompt_hashes: hashes of the prompts of the calibration; empty if they are not known.
        sha256: hash of the whole model, including tensors; empty before it is written.
    """

    pipeline: str
    unet_config: dict[str, Any]
    quantization: QuantizationSettings
    generation: GenerationSettings
    timesteps: tuple[float, ...]
    latent_size: tuple[int, int]
    unet_sha256: str = ""
    prompt_hashes: tuple[str, ...] = ()
    sha256: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "unet_config", building(self.unet_config))

    def quantization_config(self) -> dict[str, Any]:
        """The ``quantization_config`` entry of ``config.json``."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        del content["unet_config"]
        content |= {
            "quantization": described(self.quantization),
            "generation": asdict(self.generation),
            "timesteps": list(self.timesteps),
            "latent_size": list(self.latent_size),
            "prompt_hashes": list(self.prompt_hashes),
        }
        return {"quant_method": METHOD, "format": FORMAT, **content}

    def config(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {**self.unet_config, QUANTIZATION: self.quantization_config()}


def manifest_of(config: Mapping[str, Any]) -> Manifest:
    """The manifest in the configuration of a model.

    Raises:
        DGQError: if it is damaged, or of another format.
    """
    quantization = config.get(QUANTIZATION)
    if not isinstance(quantization, Mapping) or quantization.get("quant_method") != METHOD:
        raise DGQError(f"it has no {QUANTIZATION} of the method {METHOD}")
    content = {k: v for k, v in quantization.items() if k != "quant_method"}
    if content.pop("format", None) != FORMAT:
        raise DGQError(
            f"it has another format, {str(quantization.get('format'))[:40]}: expected {FORMAT}; "
            "a newer dgq may read it"
        )
    unet_config = {k: v for k, v in config.items() if k != QUANTIZATION}
    return parsed({**content, "unet_config": unet_config})


def parsed(content: Mapping[str, Any]) -> Manifest:
    """A manifest from plain values.

    Raises:
        DGQError: if a value is missing, of another type, or impossible.
    """
    try:
        manifest = Manifest(
            **dict(content)
            | {
                "quantization": quantization_settings(content["quantization"]),
                "generation": GenerationSettings(**content["generation"]),
                "timesteps": tuple(content["timesteps"]),
                "latent_size": tuple(content["latent_size"]),
                "prompt_hashes": tuple(content.get("prompt_hashes", ())),
            }
        )
    except SettingsError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        newer = "; a newer dgq may read it" if "unexpected keyword" in str(error) else ""
        raise DGQError(
            f"its description of the quantization is damaged ({error!r}){newer}"
        ) from error
    problem = problem_of(manifest)
    if problem is not None:
        raise DGQError(problem)
    return manifest


def problem_of(manifest: Manifest) -> str | None:
    """What is invalid about a manifest, if anything."""
    hashes = (manifest.unet_sha256, manifest.sha256, *manifest.prompt_hashes)
    quantization = manifest.quantization
    texts = (manifest.pipeline, *hashes, *quantization.keep, *quantization.layers)
    if not all(isinstance(text, str) for text in texts):
        return "pipeline, a hash, keep or a name in layers is not text"
    if not all(map(is_number, manifest.timesteps)):
        return "timesteps are not a list of finite numbers"
    return problem_of_steps(manifest.timesteps, manifest.latent_size)


def is_number(value: Any) -> bool:
    """Whether a value is a number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
