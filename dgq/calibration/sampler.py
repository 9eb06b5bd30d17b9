"""What a pipeline's sampler will do, known before anything is drawn."""

import copy
from typing import Any

from dgq.errors import DGQError


def count_calls(sampler: Any, num_inference_steps: int, owner: str = "the pipeline") -> int:
    """Number of UNet calls that a sampler makes per image; PNDM makes one more than it has steps.

    Args:
        sampler: a diffusers scheduler, which is not changed.
        num_inference_steps: number of its steps.
        owner: for messages.

    Raises:
        DGQError: if the sampler cannot make this number of steps.
    """
    name = f"the sampler {type(sampler).__name__} of {owner}"
    try:
        sampler = copy.deepcopy(sampler)
        sampler.set_timesteps(num_inference_steps)
        timesteps = sampler.timesteps.tolist()
    except Exception as error:  # whatever diffusers raises
        raise DGQError(
            f"{name} cannot make {num_inference_steps} steps ({error}): lower num_inference_steps"
        ) from error
    if len(set(timesteps)) < num_inference_steps:
        raise DGQError(
            f"{name} has fewer than {num_inference_steps} different steps: lower "
            "num_inference_steps"
        )
    return len(timesteps)
