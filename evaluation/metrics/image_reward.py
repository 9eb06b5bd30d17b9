"""ImageReward: a network's prediction of how much people like an image for its prompt."""

from typing import Any, Self

import torch
from torch import Tensor

from dgq.errors import DGQError, first_line
from evaluation.extras import Package
from evaluation.features.sample import ImageBatch
from evaluation.metrics.line import Better, Line
from evaluation.metrics.metric import Against, PerImageMetric
from evaluation.prompts import Prompts
from evaluation.protocol import Protocol

PACKAGE = Package("ImageReward", extra="image_reward")
WEIGHTS = "ImageReward-v1.0"


class ImageReward(PerImageMetric):
    """Learned human preference (Xu et al., 2023), by its package.

    Args:
        model: the package's model.
    """

    key, name = "image_reward", "ImageReward"
    against = Against.PROMPTS
    lines = (Line("image_reward", "ImageReward", Better.HIGHER, digits=3),)
    package = PACKAGE
    by_default = False
    switch = "image_reward"

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def prepare(cls, protocol: Protocol, prompts: Prompts, device: str) -> Self:
        """Load the published weights."""
        package = PACKAGE.load()
        try:
            return cls(package.load(WEIGHTS, device=device))
        except Exception as error:  # a download that fails raises anything
            raise DGQError(f"ImageReward cannot load its weights: {first_line(error)}") from error

    @torch.no_grad()
    def score(self, batch: ImageBatch) -> Tensor:
        """Reward of each image for its prompt."""
        pairs = zip(batch.prompts, batch.images, strict=True)
        return torch.tensor([float(self.model.score(prompt, image)) for prompt, image in pairs])
