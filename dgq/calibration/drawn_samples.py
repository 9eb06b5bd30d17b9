"""Samples from prompts that a pipeline draws in full precision."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from diffusers import DiffusionPipeline

from dgq.calibration.given_calls import checked
from dgq.calibration.recording import first_call, record_calls
from dgq.calibration.sampler import count_calls
from dgq.calibration.samples import (
    MOST_LATENT_PIXELS,
    Amount,
    Samples,
    Sampling,
    samples_of_prompts,
)
from dgq.errors import DGQError
from dgq.settings import check_positive
from dgq.storage.checkpoint import GenerationSettings
from dgq.unet.call_rows import Call


@dataclass(frozen=True)
class Drawing:
    """Prompts and how they are drawn.

    Args:
        pipeline: full-precision pipeline that draws.
        prompts: prompts, of which the last are held out.
        generation: steps, guidance and size.
        n_held_out: how many prompts are held out.
        at_once: prompts per batch; by default few for large images and many for small ones.
        sampling: which samples are used.
    """

    pipeline: DiffusionPipeline
    prompts: Sequence[str]
    generation: GenerationSettings
    n_held_out: int
    at_once: int | None
    sampling: Sampling

    def preview(self) -> tuple[Call, Amount]:
        """The first call, of one prompt, and how many samples there will be.

        Raises:
            DGQError: if too many samples are requested, or the pipeline refuses the settings.
        """
        if self.at_once is not None:
            check_positive("record_batch_size", self.at_once)
        pipeline, steps = self.pipeline, self.generation.num_inference_steps
        n_calls = count_calls(pipeline.scheduler, steps)
        most = n_calls * (len(self.prompts) - self.n_held_out)
        asked = most if self.sampling.n_samples is None else self.sampling.n_samples
        if not n_calls <= asked <= most:
            raise DGQError(
                f"n_samples must be {n_calls} (one for each UNet call) to {most} (those of all "
                f"prompts that are not held out), got {asked}"
            )
        with quiet(pipeline):
            call = first_call(pipeline, self.prompts[0], self.generation)
        call = checked(pipeline.unet, call, "the pipeline's call")
        n_held_out = min(self.sampling.n_held_out, n_calls * self.n_held_out)
        return call, Amount(asked // n_calls * n_calls, n_held_out, call["sample"].shape[0])

    def samples(self, call: Call, progress: bool) -> Samples:
        """Draw all prompts.

        Args:
            call: call of one prompt.
            progress: show a bar.
        """
        height, width = call["sample"].shape[-2:]
        at_once = self.at_once or min(16, max(1, MOST_LATENT_PIXELS // (height * width)))
        seed = self.sampling.seed
        with quiet(self.pipeline):
            calls = record_calls(
                self.pipeline, self.prompts, self.generation, seed, at_once, progress
            )
        return samples_of_prompts(calls, self.n_held_out, self.sampling)


@contextmanager
def quiet(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Hide the pipeline's own progress bar, which would show the steps of each batch."""
    before = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)
