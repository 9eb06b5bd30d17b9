"""Prompts given by a user, and the pipelines that draw from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from dgq.errors import DGQError
from dgq.pipelines.kinds import KINDS
from dgq.settings import check_positive


def prompts_in(model: Any, samples: Any) -> list[str] | None:
    """The samples as prompts; ``None`` if they are calls of the UNet.

    Raises:
        DGQError: for no samples, for anything but a list, or for prompts with a UNet alone.
    """
    if isinstance(samples, str | Mapping) or not isinstance(samples, Sequence):
        kind = type(samples).__name__
        raise DGQError(f"samples must be a list of prompts or of calls, got a {kind}")
    if not samples:
        raise DGQError("there is nothing to calibrate on: give prompts or recorded calls")
    if not isinstance(samples[0], str):
        return None
    if isinstance(model, str | Path):
        raise DGQError(
            f"{str(model)!r} is a name: load the pipeline by dgq.load_pipeline({str(model)!r})"
        )
    if not isinstance(model, DiffusionPipeline):
        raise DGQError("a UNet alone draws no prompts: give the pipeline, or calls of the UNet")
    return list(samples)


def check_prompts(
    pipeline: DiffusionPipeline, prompts: Sequence[Any], n_held_out: int, calls: Any
) -> None:
    """Raise DGQError for prompts that cannot be drawn, or too few of them.

    Args:
        pipeline: pipeline that will draw them.
        prompts: the given prompts.
        n_held_out: how many of them are held out.
        calls: given held-out calls; must be None here.
    """
    kind = type(pipeline).__name__
    if kind not in KINDS:
        raise DGQError(
            f"the inputs that {kind} draws from are unknown: record calls with "
            f"dgq.recording(pipe.unet), and calibrate on them; from prompts draw {', '.join(KINDS)}"
        )
    check_positive("n_held_out_prompts", n_held_out)
    if calls is not None:
        raise DGQError("held_out goes with calls; with prompts set n_held_out_prompts")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise DGQError(f"prompt {index} is a {type(prompt).__name__}: expected text")
        if not prompt.strip():
            raise DGQError(f"prompt {index} is empty: leave it out")
    if len(prompts) <= n_held_out:
        raise DGQError(
            f"{len(prompts)} prompts are too few, as {n_held_out} are held out to measure on: give "
            "100 or more, or lower n_held_out_prompts"
        )
