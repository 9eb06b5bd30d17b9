"""Features that networks extract from images."""

from dataclasses import dataclass
from enum import Enum

from torch import Tensor


class Feature(Enum):
    """The kinds of features; a metric declares those that it needs."""

    POOLED = "features for distances of distributions"
    LOGITS = "class logits"
    EMBEDDINGS = "embeddings in a space shared with texts"


@dataclass(frozen=True)
class Features:
    """Features of N images; None if nothing extracts them, or no metric needs them.

    Args:
        pooled: [N, d].
        logits: [N, classes]; None also if the classes do not fit the images.
        embeddings: [K, p] of the first K images, of unit length.
    """

    pooled: Tensor | None = None
    logits: Tensor | None = None
    embeddings: Tensor | None = None
