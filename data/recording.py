"""Run the full-precision pipeline once and record what it gives its UNet."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from rich.progress import track
from torch import Tensor, nn

from data.unet_calls import UNetCalls, flatten
from dgq.checkpoint import GenerationSettings
from dgq.errors import DGQError
from dgq.pipeline_inputs import call_arguments


class CallRecorder:
    """Forward pre-hook that keeps the arguments of each UNet call of one batch of prompts.

    Args:
        n_prompts: prompts in the batch.
    """

    def __init__(self, n_prompts: int) -> None:
        self.n_prompts = n_prompts
        self.latents: list[Tensor] = []
        self.timesteps: list[Tensor] = []
        self.conditioning: dict[str, Tensor] = {}

    def __call__(self, _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample, timestep = args
        if not bool(sample.isfinite().all()):
            raise DGQError(
                "the UNet is given latents that are not finite: its weights or those of the text "
                "encoder are damaged, or overflow; check that the pipeline draws sensible images"
            )
        halves = sample.detach().cpu().unflatten(0, (-1, self.n_prompts))
        shared = bool((halves == halves[0]).all())
        latents = halves[0] if shared else halves.transpose(0, 1)
        if self.latents and latents.shape != self.latents[0].shape:
            raise DGQError("this pipeline gives the halves of some guided calls different latents")
        conditioning = {
            name: value.detach().cpu().unflatten(0, (-1, self.n_prompts)).transpose(0, 1)
            for name, value in flatten(kwargs).items()
        }
        if self.conditioning and not same(conditioning, self.conditioning):
            raise DGQError("this pipeline changes its conditioning from step to step")
        self.conditioning = conditioning
        self.latents.append(latents)
        self.timesteps.append(timestep.detach().cpu().reshape(()))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def generators(first: int, n: int, seed: int) -> list[torch.Generator]:
    """One generator for each prompt, so that a picture does not depend on the batch it is in."""
    return [torch.Generator().manual_seed(seed + first + i) for i in range(n)]


def record_calls(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    generation: GenerationSettings,
    seed: int,
    batch_size: int,
) -> UNetCalls:
    """Generate every prompt once (latents only) and record the UNet's inputs.

    Args:
        pipeline: in full precision.
        prompts: at least one.
        generation: steps, guidance and size.
        seed: of the first prompt's noise; the next prompt's is one larger.
        batch_size: prompts at a time.
    """
    recorders = []
    for first in track(range(0, len(prompts), batch_size), description="recording UNet calls"):
        batch = list(prompts[first : first + batch_size])
        recorder = CallRecorder(len(batch))
        hook = pipeline.unet.register_forward_pre_hook(recorder, with_kwargs=True)
        try:
            pipeline(
                **call_arguments(pipeline, batch, generation),
                generator=generators(first, len(batch), seed),
                output_type="latent",
            )
        except ValueError as error:
            raise DGQError(f"the pipeline refuses these settings: {error}") from error
        except (RuntimeError, MemoryError) as error:
            reason = str(error).partition("\n")[0]
            raise DGQError(
                f"the pipeline cannot draw with these settings ({reason}): lower "
                "data.record_batch_size or the size of the images"
            ) from error
        finally:
            hook.remove()
        recorders.append(recorder)
    return joined(recorders)


def joined(recorders: Sequence[CallRecorder]) -> UNetCalls:
    """The calls of all batches together."""
    names = recorders[0].conditioning
    return UNetCalls(
        latents=torch.cat([torch.stack(r.latents) for r in recorders], dim=1),
        timesteps=torch.stack(recorders[0].timesteps),
        conditioning={name: torch.cat([r.conditioning[name] for r in recorders]) for name in names},
    )
