"""Drawing missing images in batches, which are written while the next ones are drawn."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.storage.checkpoint import GenerationSettings
from evaluation.fidelity.trajectory import Trajectory, recording_trajectory
from evaluation.images.files import to_images
from evaluation.images.image_set import ImageSet
from evaluation.images.sampling import sample, using_unet

WRITERS = 4
"""Threads that encode images: a 512 px PNG takes about as long as a fast GPU needs to draw it."""


@dataclass(frozen=True)
class Batch:
    """Images of one set that are drawn together.

    Args:
        image_set: position of the set among all.
        indices: image of each row; the last one is repeated to fill the batch.
        missing: images to keep; the others exist already.
    """

    image_set: int
    indices: tuple[int, ...]
    missing: tuple[int, ...]


def plan_batches(sets: Sequence[ImageSet], batch_size: int) -> list[Batch]:
    """The batches left to draw, set by set.

    The last bits of an image depend on its row and on how many rows are computed at once. So image
    i is always in row ``i % batch_size`` of a full batch, regardless of which other images are
    missing.
    """
    batches = []
    for number, each in enumerate(sets):
        missing, n = set(each.missing()), len(each.store.prompts)
        for start in range(0, n, batch_size):
            rows = range(start, start + batch_size)
            wanted = tuple(index for index in rows if index in missing)
            if wanted:
                batches.append(Batch(number, tuple(min(i, n - 1) for i in rows), wanted))
    return batches


class ImageGenerator:
    """Draws batches with one pipeline, and writes them in the background.

    Args:
        pipeline: the full-precision pipeline, on its device.
        unet_of: returns the UNet of a model, by its position.
        sets: sets of images of all models.
        generation: how images are sampled.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        unet_of: Callable[[int], nn.Module],
        sets: Sequence[ImageSet],
        generation: GenerationSettings,
    ) -> None:
        self.pipeline = pipeline
        self.unet_of = unet_of
        self.sets = sets
        self.generation = generation
        self._writers = ThreadPoolExecutor(WRITERS)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> "ImageGenerator":
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self._writers.shutdown(cancel_futures=True)

    def draw(self, batch: Batch) -> None:
        """Draw a batch; on return, the previous batch is on disk.

        Raises:
            DGQError: if an image is not finite.
            OSError: if an earlier image could not be written.
        """
        drawn = self.sets[batch.image_set]
        unet, prompts = self.unet_of(drawn.model), drawn.store.prompts
        recorded = batch.missing[0] < drawn.n_recorded
        recorder: AbstractContextManager[Callable[[], Trajectory] | None] = nullcontext()
        if recorded:
            recorder = recording_trajectory(unet, len(batch.indices))
        with using_unet(self.pipeline, unet) as pipeline, recorder as finished:
            pixels = sample(pipeline, prompts, batch.indices, self.generation, drawn.seed)
        check_finite(pixels, batch, drawn)
        images = to_images(pixels)
        self.finish()
        trajectory = None if finished is None else finished()
        store = drawn.store
        for index in batch.missing:
            row = batch.indices.index(index)
            if trajectory is not None and index < drawn.n_recorded:
                part = trajectory.of_prompt(row)
                self._write(part.save, store.trajectory_path(index), store.which(index))
            self._write(store.save, index, images[row])

    def _write(self, function: Callable[..., None], *args: object) -> None:
        self._pending.append(self._writers.submit(function, *args))

    def finish(self) -> None:
        """Wait until everything is written; raises any error of the writing."""
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()


def check_finite(pixels: Tensor, batch: Batch, images: ImageSet) -> None:
    """Raise DGQError if an image has values that are not finite: saved, it would look black."""
    whole = pixels.isfinite().flatten(1).all(1).tolist()
    if not all(whole):
        index = batch.indices[whole.index(False)]
        raise DGQError(
            f"{images.label}: image {index} ({images.store.prompts[index]!r}, seed {images.seed}) "
            "is not finite, so its numbers would mean nothing: calibrate this model again, or "
            "leave it out"
        )
