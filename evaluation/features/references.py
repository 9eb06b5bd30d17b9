"""The real images that FID and KID use as references."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from data.benchmark import Benchmark
from dgq.errors import DGQError
from evaluation.batching import batched
from evaluation.features.extractors import Extractors
from evaluation.features.gaussian import Gaussian, fit_gaussian, load_gaussian
from evaluation.images.files import as_measured, list_images, named, read_image, to_images
from evaluation.prompts import Prompts, reference_captions

MIN_RENDERS = 1024
"""Least number of renders: they are cheap, and more of them than images make FID steadier."""

RENDER_BATCH = 64
"""Renders drawn at once, with a seed for each batch."""


@dataclass(frozen=True)
class References:
    """Features of real images.

    Args:
        source: origin, for readers.
        gaussian: Gaussian of their features.
        features: [M, d]; None if only statistics are known, so that there is no KID.
        n: number of images; None if only statistics are known.
    """

    source: str
    gaussian: Gaussian
    features: Tensor | None = None
    n: int | None = None


def check_references(path: Path | None, dimensions: int | None) -> None:
    """Raise DGQError if references cannot be used; images themselves are read later.

    Args:
        path: folder of images or npz file.
        dimensions: number of the network's features; None if no metric needs any.
    """
    if path is None or dimensions is None:
        return
    if not _is_statistics(path):
        n_images = len(list_images(path))
        if n_images < 2:
            raise DGQError(f"{path} holds {n_images} image: references for FID need at least 2")
        return
    found = load_gaussian(path).dimensions
    if found != dimensions:
        raise DGQError(
            f"{path} has statistics of {found} features, but the extractor gives {dimensions}: "
            "they are of another network (pytorch-fid's go with --features inception)"
        )


def find_references(
    path: Path | None,
    prompts: Prompts,
    seed: int,
    size: int | None,
    measured_size: int | None,
    extractors: Extractors,
    batch_size: int,
) -> tuple[References | None, list[str]]:
    """The real images that a protocol names, else a benchmark's renders; None if there are neither.

    Args:
        path: images or statistics, if given.
        prompts: prompts of the evaluation.
        seed: seed of the renders.
        size: side of renders in pixels; None for images that are not square, which have none.
        measured_size: side that drawn images are resized to, and so real ones are; None for none.
        extractors: networks that extract features.
        batch_size: images at once.

    Returns:
        The references, and notes on what was left out.
    """
    if path is None:
        return render_references(prompts, seed, size, extractors), []
    notes: list[str] = []
    return load_references(path, extractors, batch_size, notes, measured_size), notes


def load_references(
    path: Path,
    extractors: Extractors,
    batch_size: int,
    notes: list[str],
    measured_size: int | None = None,
) -> References:
    """Load references from a folder of images or an npz file.

    Images that cannot be read are left out, and counted and named in ``notes``. Images are resized
    like drawn ones, or sharpness alone would tell them apart.

    Raises:
        DGQError: if fewer than two images can be read.
    """
    if _is_statistics(path):
        return References(path.name, load_gaussian(path))
    unreadable: list[Path] = []
    resized: list[Path] = []
    images = _readable(list_images(path, notes), batch_size, unreadable, measured_size, resized)
    pooled = extractors.extract(images).pooled
    if unreadable:
        notes.append(
            f"references: {len(unreadable)} images of {path} cannot be read and were left "
            f"out: {named(unreadable)}"
        )
    if resized:
        notes.append(
            f"references: {len(resized)} images of {path} were resized to {measured_size} x "
            f"{measured_size} pixels, as drawn images are"
        )
    assert pooled is not None
    return of_features(path.name, pooled)


def render_references(
    prompts: Prompts, seed: int, size: int | None, extractors: Extractors
) -> References | None:
    """Renders of held-out captions, at least as many as prompts; None without a benchmark.

    The captions are drawn separately, so some of them may be prompts too.

    Args:
        prompts: prompts of the evaluation.
        seed: seed of captions and renders.
        size: side of the images in pixels; None if they are not square, as renders are.
        extractors: networks that extract features.
    """
    benchmark = prompts.benchmark
    if benchmark is None or size is None:
        return None
    captions = reference_captions(max(len(prompts.captions), MIN_RENDERS), seed, benchmark)
    batches = (
        to_images(benchmark.render(batch, size, seed + number))
        for number, batch in enumerate(batched(captions, RENDER_BATCH))
    )
    pooled = extractors.extract(batches).pooled
    assert pooled is not None
    return of_features(renders_of(benchmark), pooled)


def of_features(source: str, features: Tensor) -> References:
    """References from features [M, d], M at least 2."""
    return References(source, fit_gaussian(features), features, len(features))


def renders_of(benchmark: Benchmark) -> str:
    """Name of references that a benchmark renders."""
    return f"renders of held-out {benchmark.name}"


def _is_statistics(path: Path) -> bool:
    """Whether a path is a file, or named like one; a folder always holds images."""
    return path.is_file() or (path.suffix.lower() == ".npz" and not path.is_dir())


def _readable(
    paths: list[Path],
    batch_size: int,
    unreadable: list[Path],
    measured_size: int | None,
    resized: list[Path],
) -> Iterator[list[Image.Image]]:
    """Batches of the readable images, resized; others are appended to ``unreadable``."""
    n_read = 0
    for batch in batched(paths, batch_size):
        images = []
        for path in batch:
            try:
                image = read_image(path)
            except DGQError:
                unreadable.append(path)
                continue
            if measured_size is not None and image.size != (measured_size, measured_size):
                resized.append(path)
            images.append(as_measured(image, measured_size, None))
        n_read += len(images)
        if images:
            yield images
    if n_read < 2:
        raise DGQError(
            f"{paths[0].parent} holds {n_read} readable images ({len(unreadable)} cannot be "
            "read): references for FID need at least 2"
        )
