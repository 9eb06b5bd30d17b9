"""What CLIP sees in renders of captions."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import scenes
from evaluation.batching import batched
from evaluation.clip_features import ClipFeatures
from evaluation.images import to_images

BATCH_SIZE = 64
Advance = Callable[[int], None]


def embed_renders(
    clip: ClipFeatures, captions: Sequence[str], seed: int, advance: Advance
) -> Tensor:
    """Embeddings [N, p] of a render of each caption, of the size that the model sees."""
    size = clip.model.config.vision_config.image_size
    parts = []
    for number, batch in enumerate(batched(captions, BATCH_SIZE)):
        parts.append(clip.images(to_images(scenes.render(batch, size, seed + number)))[1])
        advance(len(batch))
    return torch.cat(parts)
