"""Other samplers for a pipeline, with the settings of its own."""

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin

from dgq.errors import DGQError, first_line

TRIAL_STEPS = 10


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


def check_scheduler(scheduler: Any, folder: Path) -> None:
    """Raise DGQError for a sampler that cannot take its first step.

    Settings that a scheduler only reads in its steps would otherwise fail after the UNet ran.

    Args:
        scheduler: of a pipeline, which stays as it is.
        folder: of the pipeline, for the message.
    """
    trial = copy.deepcopy(scheduler)
    try:
        trial.set_timesteps(TRIAL_STEPS)
        latents = torch.zeros(1, 4, 2, 2)
        first = trial.timesteps[0]
        trial.step(trial.scale_model_input(latents, first), first, latents)
    except Exception as error:  # whatever diffusers raises for what is not as it expects
        raise DGQError(
            f"the sampler of {folder} cannot be used ({first_line(error)}): restore "
            "scheduler/scheduler_config.json"
        ) from error
