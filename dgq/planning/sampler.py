"""The timesteps that a pipeline's sampler visits, from its configuration."""

from pathlib import Path

import diffusers

from dgq.calibration.sampler import count_calls
from dgq.errors import DGQError
from dgq.pipelines.files import read_components


def sampler_timesteps(folder: Path, num_inference_steps: int) -> list[float]:
    """The scheduler's values in the order of the calls; PNDM repeats one.

    Raises:
        DGQError: if the sampler cannot be read, or cannot make this number of steps.
    """
    _, kind = read_components(folder)["scheduler"]
    try:
        sampler = getattr(diffusers, kind).from_pretrained(str(folder), subfolder="scheduler")
    except Exception as error:  # whatever diffusers raises for what is not as it expects
        raise DGQError(f"the sampler of {folder} cannot be read ({error}): restore it") from error
    count_calls(sampler, num_inference_steps, str(folder))
    sampler.set_timesteps(num_inference_steps)
    return [float(timestep) for timestep in sampler.timesteps]
