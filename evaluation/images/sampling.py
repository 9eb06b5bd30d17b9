"""Images from a pipeline, each depending only on its prompt, its index and the seed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from dgq.errors import DGQError, first_line
from dgq.pipelines.inputs import call_arguments
from dgq.storage.checkpoint import GenerationSettings

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a UNet call."""


def image_generator(seed: int, index: int) -> torch.Generator:
    """Noise generator of image ``index``, the same on every device.

    The pair is hashed, since torch's generator on the CPU keeps only 32 bits of its seed.
    """
    hashed = np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1)[0]
    return torch.Generator("cpu").manual_seed(int(hashed))


def sample(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str] | Mapping[int, str],
    indices: Sequence[int],
    generation: GenerationSettings,
    seed: int,
    output_type: str = "pt",
    **options: Any,
) -> Tensor:
    """Run the pipeline once, for ``prompts[i], i in indices``.

    ``options`` are passed on to the pipeline.

    Returns:
        Images [N, 3, H, W] in [0, 1] in that order, on the pipeline's device; latents if
        ``output_type`` is ``latent``.
    """
    generators = [image_generator(seed, index) for index in indices]
    with torch.random.fork_rng(devices=[]):
        # For samplers that draw noise without the generators, such as DPMSolverSDE's.
        torch.manual_seed(generators[0].initial_seed())
        images: Tensor = pipeline(
            **call_arguments(pipeline, [prompts[index] for index in indices], generation),
            generator=generators,
            output_type=output_type,
            **options,
        ).images
    return images


def record_call(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    generation: GenerationSettings,
    **options: Any,
) -> Arguments:
    """Arguments of the first UNet call that the pipeline makes for these prompts."""
    calls: list[Arguments] = []

    def keep(_unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))
        raise _EnoughError

    handle = pipeline.unet.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        indices = range(len(prompts))
        sample(pipeline, prompts, indices, generation, 0, output_type="latent", **options)
    except _EnoughError:
        pass
    finally:
        handle.remove()
    return calls[0]


def check_drawable(
    pipeline: DiffusionPipeline,
    prompt: str,
    generation: GenerationSettings,
    named: str,
    **options: Any,
) -> tuple[int, int]:
    """Raise DGQError unless the pipeline can start drawing with these settings.

    Args:
        pipeline: a whole pipeline.
        prompt: any prompt.
        generation: sampling settings.
        named: options that set them, for the message.
        options: further options of the pipeline.

    Returns:
        Height and width of the latents.
    """
    n_steps = generation.num_inference_steps
    try:
        pipeline.scheduler.set_timesteps(n_steps)
        distinct = set(pipeline.scheduler.timesteps.tolist())
        if len(distinct) < n_steps:
            raise ValueError(f"its sampler has only {len(distinct)} of {n_steps} different steps")
        args, kwargs = record_call(pipeline, [prompt], generation, **options)
    except Exception as error:  # samplers and the pipeline's own checks raise all kinds
        raise DGQError(
            f"the pipeline cannot draw with these settings ({first_line(error)}): change {named}"
        ) from error
    latents: Tensor = args[0] if args else kwargs["sample"]
    return latents.shape[-2], latents.shape[-1]


class _EnoughError(Exception):
    """Leaves a sampling loop after the first call, which is all that is needed."""


@contextmanager
def using_unet(pipeline: DiffusionPipeline, unet: nn.Module) -> Iterator[DiffusionPipeline]:
    """Context in which the pipeline uses another UNet; everything else is shared."""
    own = pipeline.unet
    pipeline.unet = unet
    try:
        yield pipeline
    finally:
        pipeline.unet = own
