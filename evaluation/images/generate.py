"""The first stage: drawing the missing images, on one or several devices."""

from collections.abc import Callable, Sequence

import torch
from rich.markup import escape
from rich.progress import Progress, TaskID

from evaluation.comparison import Comparison
from evaluation.images.image_generator import Batch, ImageGenerator, plan_batches
from evaluation.images.image_set import ImageSet
from evaluation.images.processes import WorkerSetup, draw_in_processes


@torch.no_grad()
def generate(
    comparison: Comparison,
    sets: Sequence[ImageSet],
    devices: Sequence[str],
    batch_size: int,
    progress: Progress,
) -> None:
    """Draw the missing images, and record the UNet calls that were requested.

    Args:
        comparison: the pipeline and the UNets that draw.
        sets: images of each model with each seed.
        devices: devices with one process each; with a single device, this process draws.
        batch_size: images drawn at once.
        progress: shows a bar for each set.
    """
    for each in sets:
        each.store.open_()
    batches = plan_batches(sets, batch_size)
    advance = _bars(sets, batches, progress)
    if len(devices) > 1 and batches:
        threads = max(1, torch.get_num_threads() // len(devices))
        setup = WorkerSetup(
            comparison.source,
            tuple(model.checkpoint for model in comparison.models),
            tuple(sets),
            comparison.generation,
            threads,
            comparison.execution,
        )
        draw_in_processes(setup, devices, batches, advance)
        return

    # Batches come model after model, so that each is loaded once.
    pipeline, generation = comparison.pipeline, comparison.generation
    with ImageGenerator(pipeline, comparison.unet, sets, generation) as generator:
        for batch in batches:
            generator.draw(batch)
            advance(batch)


def _bars(
    sets: Sequence[ImageSet], batches: Sequence[Batch], progress: Progress
) -> Callable[[Batch], None]:
    """Make a bar for each set of images; returns the function that advances them."""
    tasks: list[TaskID] = []
    for number, each in enumerate(sets):
        n = len(each.store.prompts)
        missing = sum(len(batch.missing) for batch in batches if batch.image_set == number)
        tasks.append(progress.add_task(escape(each.label), total=n, completed=n - missing))
    return lambda batch: progress.advance(tasks[batch.image_set], len(batch.missing))
