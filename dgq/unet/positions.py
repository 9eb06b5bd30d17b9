"""Where the pixels and words of a call lie among those that scales were calibrated for."""

import math

import torch
from torch import Tensor


def pixel_index(
    n_pixels: int, calibrated: int, size: tuple[int, int], calibrated_size: tuple[int, int]
) -> Tensor | None:
    """Position of each pixel of a feature map among the calibrated ones; ``None`` if all agree.

    Nearest-neighbour resizing of the ``calibrated``-pixel map to the size of the call, so that
    pixel groups work at other resolutions, and at other aspect ratios of the same area. Tokens of
    several images, as in self-attention to a reference image, are indexed image by image.

    Args:
        n_pixels: pixels or tokens of the feature map.
        calibrated: pixels that it had in the calibration.
        size: height and width of the call's latents.
        calibrated_size: height and width of the calibration's latents.

    Returns:
        ``[n_pixels]``, long, on the CPU.
    """
    if size == calibrated_size:
        return None if n_pixels == calibrated else torch.arange(n_pixels, device="cpu") % calibrated
    growth = math.prod(size) / math.prod(calibrated_size)
    images = max(1, round(n_pixels / (calibrated * growth)))
    if n_pixels % images:
        images = 1
    height, width = grid_size(n_pixels // images, size)
    old_height, old_width = grid_size(calibrated, calibrated_size)
    rows = (torch.arange(height, device="cpu") * old_height) // height
    columns = (torch.arange(width, device="cpu") * old_width) // width
    return (rows[:, None] * old_width + columns).flatten().repeat(images)


def word_index(n_words: int, calibrated: int) -> Tensor:
    """Position of each word of a text among the calibrated ones; surplus words use the last."""
    return torch.arange(n_words, device="cpu").clamp(max=calibrated - 1)


def grid_size(n_pixels: int, latent_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a feature map of ``n_pixels`` with the aspect of the latents."""
    height = max(1, round(latent_size[0] * math.sqrt(n_pixels / (latent_size[0] * latent_size[1]))))
    if n_pixels % height:
        return 1, n_pixels
    return height, n_pixels // height
