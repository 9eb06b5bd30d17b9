"""LPIPS: learned perceptual distance of two images."""

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

PACKAGE = Package("lpips", extra="lpips")


class Lpips(PerImageMetric):
    """Perceptual distance to full precision (Zhang et al., 2018), AlexNet, by its package.

    Args:
        network: the package's network.
        device: device of the network.
    """

    key, name = "lpips", "LPIPS"
    against = Against.FULL_PRECISION
    lines = (Line("lpips", "LPIPS to full precision", Better.LOWER, digits=3),)
    package = PACKAGE
    switch = "lpips"

    def __init__(self, network: Any, device: str) -> None:
        self.network = network
        self.device = device

    @classmethod
    def prepare(cls, protocol: Protocol, prompts: Prompts, device: str) -> Self:
        """Load the network's published weights."""
        package = PACKAGE.load()
        try:
            network = package.LPIPS(net="alex", verbose=False).eval().to(device)
        except Exception as error:  # a download that fails raises anything
            raise DGQError(f"lpips cannot load its weights: {first_line(error)}") from error
        return cls(network, device)

    @torch.no_grad()
    def score(self, batch: ImageBatch) -> Tensor:
        """Distance of each image to the one in full precision."""
        pair = (2 * part.to(self.device) - 1 for part in (batch.expected_pixels, batch.pixels))
        distances: Tensor = self.network(*pair)
        return distances.reshape(-1).cpu()
