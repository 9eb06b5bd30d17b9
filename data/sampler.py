"""What a pipeline's sampler will do, known before anything is drawn."""

from pathlib import Path

import diffusers

from dgq.errors import DGQError
from dgq.pipeline_files import read_components


def count_calls(folder: Path, num_inference_steps: int) -> int:
    """How often the sampler calls the UNet for a picture; PNDM once more than it has steps.

    Args:
        folder: of the pipeline.
        num_inference_steps: of the sampler.

    Raises:
        DGQError: if it cannot be read, or does not have so many steps.
    """
    _, kind = read_components(folder)["scheduler"]
    try:
        sampler = getattr(diffusers, kind).from_pretrained(str(folder), subfolder="scheduler")
    except Exception as error:  # whatever diffusers raises for what is not as it expects
        raise DGQError(f"the sampler of {folder} cannot be read ({error}): restore it") from error
    try:
        sampler.set_timesteps(num_inference_steps)
        timesteps = sampler.timesteps.tolist()
    except Exception as error:
        raise DGQError(
            f"the sampler {kind} of {folder} cannot make {num_inference_steps} steps ({error}): "
            "lower num_inference_steps"
        ) from error
    if len(set(timesteps)) < num_inference_steps:
        raise DGQError(
            f"the sampler {kind} of {folder} has fewer than {num_inference_steps} different steps: "
            "lower num_inference_steps"
        )
    return len(timesteps)
