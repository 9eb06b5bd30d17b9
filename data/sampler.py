"""How often the sampler in a pipeline's folder calls the UNet."""

from pathlib import Path

import diffusers

from dgq.calibration.sampler import count_calls as calls_of_sampler
from dgq.errors import DGQError
from dgq.pipelines.files import read_components


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
    return calls_of_sampler(sampler, num_inference_steps, str(folder))
