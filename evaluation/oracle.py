"""What a benchmark's scorer reads back from images, batch after batch."""

from collections.abc import Iterable, Sequence

import torch
from PIL import Image

from data.benchmark import Answers, Benchmark
from evaluation.estimate import Array, Ratio, mean
from evaluation.images import to_tensor

ALL = "all"


def read_prompts(
    batches: Iterable[list[Image.Image]], captions: Sequence[str], benchmark: Benchmark
) -> dict[str, Ratio]:
    """Hits and questions of each attribute, and whether an image is faultless (``all``).

    Attributes that no caption asks for are left out.

    Args:
        batches: of all images in order.
        captions: one for each image.
        benchmark: that understands them.

    Raises:
        ValueError: if images are not square, or too small to be read.
    """
    scores: list[Answers] = []
    start = 0
    for batch in batches:
        scores.append(benchmark.score(to_tensor(batch), captions[start : start + len(batch)]))
        start += len(batch)
    ratios = {}
    for name in scores[0].asked:
        hits, asked = (
            _numbers([getattr(score, part)[name] for score in scores]) for part in ("hits", "asked")
        )
        if asked.any():
            ratios[name] = Ratio(hits, asked)
    faultless = [
        torch.stack([score.hits[name] == asked for name, asked in score.asked.items()]).all(0)
        for score in scores
    ]
    return {ALL: mean(_numbers(faultless)), **ratios}


def _numbers(parts: Sequence[torch.Tensor]) -> Array:
    return torch.cat(list(parts)).double().numpy()
