"""Recording a UNet's calls into a file, from which an interrupted recording goes on.

Until all prompts are recorded, each batch of them is in a file of its own beside it.
"""

from contextlib import suppress
from pathlib import Path

from diffusers import DiffusionPipeline

from data.messages import say
from dgq.calibration.arranging import joined
from dgq.calibration.recording import record_batches
from dgq.calibration.unet_calls import UNetCalls
from dgq.errors import DGQError
from dgq.storage.checkpoint import GenerationSettings


def record_into(
    recording: Path,
    pipeline: DiffusionPipeline,
    prompts: list[str],
    generation: GenerationSettings,
    seed: int,
    batch_size: int,
) -> None:
    """Draw every prompt and write the UNet's inputs; prompts that are recorded are not drawn again.

    Args:
        recording: the file; its name stands for everything else but the batch size.
        pipeline: full-precision pipeline.
        prompts: what it draws.
        generation: steps, guidance and size.
        seed: seed of the first prompt's noise; it increases by one per prompt.
        batch_size: prompts at a time.
    """
    batches = load_parts(recording)
    n_recorded = sum(batch.n_prompts for batch in batches)
    if batches:
        say(f"{n_recorded} of {len(prompts)} prompts are recorded already")
    for batch in record_batches(pipeline, prompts, generation, seed, batch_size, n_recorded):
        n_recorded += batch.n_prompts
        if n_recorded < len(prompts):
            batch.save(part_of(recording, len(batches)))
        batches.append(batch)
    joined(batches).save(recording)
    remove_parts(recording)


def load_parts(recording: Path) -> list[UNetCalls]:
    """The calls of the first batches, up to a file that is missing or damaged."""
    parts: list[UNetCalls] = []
    with suppress(DGQError):
        while True:
            parts.append(UNetCalls.load(part_of(recording, len(parts))))
    return parts


def remove_parts(recording: Path) -> None:
    """Remove the files of all batches."""
    for file in recording.parent.glob(f"{recording.name}.part-*"):
        file.unlink()


def part_of(recording: Path, number: int) -> Path:
    """The file of one batch of prompts."""
    return recording.with_name(f"{recording.name}.part-{number}")
