"""From images to samples for metrics: features of each set of images, one set after another."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from evaluation.features.extractors import Extractors
from evaluation.features.references import References
from evaluation.features.sample import Sample
from evaluation.images.image_set import ImageSet


def extract_features(
    sets: Sequence[ImageSet],
    extractors: Extractors,
    references: References | None,
    n_embedded: int,
    batch_size: int,
) -> Iterator[Sample]:
    """Yield a sample for each set of images, in order.

    Samples are made one by one, so that memory holds only the features of full precision and of the
    current set.

    Args:
        sets: images of each model with each seed, full precision first; all images must exist.
        extractors: networks that extract features.
        references: real images, if any metric needs them.
        n_embedded: number of images, from the first, that the CLIP score uses.
        batch_size: images at once.
    """
    texts: Tensor | None = extractors.texts(sets[0].store.prompts[:n_embedded])
    full_precision: dict[int, Sample] = {}
    for each in sets:
        features = extractors.extract(each.store.measured(batch_size), n_embedded)
        expected = full_precision.get(each.seed)
        sample = Sample(each.store, features, texts, references, expected, each.model, batch_size)
        full_precision.setdefault(each.seed, sample)
        yield sample
