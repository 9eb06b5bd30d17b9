"""Other samplers for a pipeline, with the settings of its own."""

from typing import Any

from diffusers import SchedulerMixin


def scheduler_like(kind: Any, own: SchedulerMixin) -> Any:
    """A sampler of another class with the configuration of a pipeline's own.

    Latents are clipped only if that configuration says so. Classes that were made for pixels, such
    as DDIM's, otherwise clip them to [-1, 1]; stock pipelines correct this too, but only for the
    sampler that they are built with.

    Args:
        kind: class of diffusers.
        own: scheduler of the pipeline.

    Raises:
        ImportError, ValueError: as the class does, for a missing package or unfit settings.
    """
    return kind.from_config({"clip_sample": False, **own.config})
