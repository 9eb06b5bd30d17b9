"""Sampling of images: as the protocol says, else as the models were calibrated for."""

from collections.abc import Sequence
from dataclasses import replace

from data.embedded import default_generation
from dgq.errors import DGQError
from dgq.storage.checkpoint import GenerationSettings
from evaluation.models import Model
from evaluation.protocol import Protocol


def chosen_generation(
    protocol: Protocol, models: Sequence[Model], source: str
) -> GenerationSettings:
    """The protocol's sampling; where it says nothing, that of the models' calibration."""
    calibrated = [m.manifest.generation for m in models if m.manifest is not None]
    default = calibrated[0] if calibrated else default_generation(source)
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
