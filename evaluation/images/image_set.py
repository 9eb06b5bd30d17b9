"""The images of one model with one seed: those on disk, and those still to be drawn."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from evaluation.comparison import Comparison
from evaluation.fidelity.trajectory import is_recorded
from evaluation.images.store import ImageStore
from evaluation.models import FULL_PRECISION, Model
from evaluation.prompts import Prompts
from evaluation.settings import EvaluationSettings
from evaluation.versions import DRAWING, versions_of


@dataclass(frozen=True)
class ImageSet:
    """The images of one model with one seed.

    Args:
        model: position of the model among all.
        label: label for the progress bar and errors.
        store: folder of the images.
        seed: seed of the noise.
        n_recorded: number of images, from the first, whose UNet calls are recorded.
    """

    model: int
    label: str
    store: ImageStore
    seed: int
    n_recorded: int = 0

    def missing(self) -> list[int]:
        """Indices of the images that have to be drawn, including damaged and swapped ones."""
        n = min(self.n_recorded, len(self.store.prompts))
        store = self.store
        unrecorded = {
            i for i in range(n) if not is_recorded(store.trajectory_path(i), store.which(i))
        }
        return sorted(unrecorded.union(store.missing()))


def image_sets(
    comparison: Comparison, prompts: Prompts, settings: EvaluationSettings
) -> list[ImageSet]:
    """The images of every model with every seed; full precision first, seeds in order.

    If there are quantized models, the full-precision UNet calls of the first prompts with the first
    seed are recorded, to be repeated by them.
    """
    seeds = settings.protocol.seeds
    n_recorded = min(settings.protocol.sqnr_prompts, len(prompts.captions))
    is_compared = len(comparison.models) > 1
    return [
        ImageSet(
            number,
            model.name + (f", seed {seed}" if len(seeds) > 1 else ""),
            image_store(comparison, model, prompts, settings, seed),
            seed,
            n_recorded if is_compared and number == 0 and seed == seeds[0] else 0,
        )
        for number, model in enumerate(comparison.models)
        for seed in seeds
    ]


def image_store(
    comparison: Comparison, model: Model, prompts: Prompts, settings: EvaluationSettings, seed: int
) -> ImageStore:
    """The folder of a model's images, named after everything that they depend on."""
    determined_by: dict[str, Any] = {
        **asdict(comparison.generation),
        "seed": seed,
        "batch_size": rows_of_a_batch(settings, prompts.captions),
        "prompts": prompts.identity,
        "pipeline_sha256": comparison.pipeline_sha256,
        "unet": model.sha256 or FULL_PRECISION,
        "device": torch.device(comparison.device).type,
        "versions": versions_of(DRAWING),
    }
    if model.execution is not None:
        determined_by["execution"] = model.execution.arithmetic
    protocol = settings.protocol
    return ImageStore(
        settings.images,
        f"{model.name.replace(' ', '_')}-seed{seed}",
        determined_by,
        prompts.captions,
        protocol.jpeg_quality,
        protocol.measured_size,
    )


def rows_of_a_batch(settings: EvaluationSettings, captions: Sequence[str]) -> int:
    """Number of images drawn at once, always in full batches: their last bits depend on it."""
    return min(settings.batch_size, len(captions))
