"""The CLIP score against its formula."""

import torch

from evaluation.metrics.clip_score import clip_scores


def test_clip_scores_are_cosines_that_are_not_negative() -> None:
    texts = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    images = torch.tensor([[3.0, 4.0], [0.0, 0.5], [-1.0, 0.1]])
    torch.testing.assert_close(clip_scores(images, texts), torch.tensor([60.0, 100.0, 0.0]))
