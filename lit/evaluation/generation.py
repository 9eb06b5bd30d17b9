"""Images from a pipeline, each a function of its prompt, its index and the seed alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from rich.progress import Progress
from torch import nn

from lit.evaluation.batching import batched
from lit.evaluation.store import ImageStore


@dataclass(frozen=True)
class Sampling:
    """How images are sampled.

    Args:
        num_inference_steps: sampler steps.
        guidance_scale: of classifier-free guidance; at most 1 is without.
        seed: of the noise; image i is seeded with (seed, i).
        height: pixels; None is the pipeline's default.
        width: pixels; None is the pipeline's default.
    """

    num_inference_steps: int
    guidance_scale: float
    seed: int
    height: int | None = None
    width: int | None = None


def image_generator(seed: int, index: int) -> torch.Generator:
    """Noise source of image ``index``, the same on every device.

    The pair is hashed, since torch's generator on the CPU keeps only 32 bits of its seed.
    """
    hashed = np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1)[0]
    return torch.Generator("cpu").manual_seed(int(hashed))


def sample(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    indices: Sequence[int],
    sampling: Sampling,
    output_type: str = "pil",
) -> Any:
    """Run the pipeline once, for ``prompts[i], i in indices``; images in that order."""
    result = pipeline(
        prompt=[prompts[index] for index in indices],
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        height=sampling.height,
        width=sampling.width,
        generator=[image_generator(sampling.seed, index) for index in indices],
        output_type=output_type,
    )
    return result.images


def fill(
    store: ImageStore,
    pipeline: DiffusionPipeline,
    sampling: Sampling,
    batch_size: int,
    progress: Progress,
    description: str,
) -> None:
    """Generate the images that ``store`` misses; safe to interrupt and to call again."""
    missing = store.missing()
    n = len(store.prompts)
    task = progress.add_task(description, total=n, completed=n - len(missing))
    for batch in batched(missing, batch_size):
        images = sample(pipeline, store.prompts, batch, sampling)
        for index, image in zip(batch, images, strict=True):
            store.save(index, image)
        progress.advance(task, len(batch))


@contextmanager
def using_unet(pipeline: DiffusionPipeline, unet: nn.Module) -> Iterator[DiffusionPipeline]:
    """The pipeline with another UNet in place; everything else is shared."""
    own = pipeline.unet
    pipeline.unet = unet
    try:
        yield pipeline
    finally:
        pipeline.unet = own
