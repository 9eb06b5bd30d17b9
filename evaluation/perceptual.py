"""Metrics of optional packages: LPIPS of two images, ImageReward of an image and its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dgq.errors import DGQError
from dgq.pipelines.loading import first_line
from evaluation.extras import import_extra, is_installed
from evaluation.protocol import Protocol

IMAGE_REWARD = "ImageReward-v1.0"


class Lpips:
    """Learned perceptual distance (Zhang et al., 2018), AlexNet, by the authors' package.

    Args:
        device: where it runs.

    Raises:
        DGQError: if the package or its weights are missing.
    """

    def __init__(self, device: str) -> None:
        package = import_extra("lpips")
        try:
            self.network = package.LPIPS(net="alex", verbose=False).eval().to(device)
        except Exception as error:  # a download that fails raises anything
            raise DGQError(f"lpips cannot load its weights: {first_line(error)}") from error
        self.device = device

    @torch.no_grad()
    def __call__(self, expected: Tensor, actual: Tensor) -> Tensor:
        """Distance of each pair of images [N, 3, H, W] in [0, 1], [N]."""
        pair = (2 * pixels.to(self.device) - 1 for pixels in (expected, actual))
        return self.network(*pair).reshape(-1).cpu()


class ImageReward:
    """Learned human preference (Xu et al., 2023), by the authors' package.

    Args:
        device: where it runs.

    Raises:
        DGQError: if the package or its weights are missing.
    """

    def __init__(self, device: str) -> None:
        package = import_extra("ImageReward")
        try:
            self.model = package.load(IMAGE_REWARD, device=device)
        except Exception as error:  # a download that fails raises anything
            raise DGQError(f"ImageReward cannot load its weights: {first_line(error)}") from error

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> Tensor:
        """Reward of each image for its prompt, [N]."""
        pairs = zip(prompts, images, strict=True)
        return torch.tensor([float(self.model.score(prompt, image)) for prompt, image in pairs])


@dataclass(frozen=True)
class Judges:
    """The optional metrics of an evaluation.

    Args:
        lpips: None is left out.
        image_reward: None is left out.
        notes: why something that was not asked for is left out.
    """

    lpips: Lpips | None = None
    image_reward: ImageReward | None = None
    notes: list[str] = field(default_factory=list)


def find_judges(protocol: Protocol, device: str) -> Judges:
    """The optional metrics that a protocol asks for.

    Raises:
        DGQError: if one that it asks for is not there.
    """
    notes: list[str] = []
    options: dict[str, Any] = {}
    if protocol.lpips or (protocol.lpips is None and is_installed("lpips")):
        try:
            options["lpips"] = Lpips(device)
        except DGQError as error:
            if protocol.lpips:
                raise
            notes.append(f"LPIPS left out: {error}")
    elif protocol.lpips is None:
        notes.append("LPIPS left out: the package lpips is not installed (extra lpips)")
    if protocol.image_reward:
        options["image_reward"] = ImageReward(device)
    return Judges(**options, notes=notes)
