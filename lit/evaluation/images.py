"""Images as tensors, and as files that are either whole or not there."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dgq.errors import DGQError
from dgq.files import written_beside

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What PIL raises for files that are truncated, damaged or no image."""

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Images of one size as float tensor [N, 3, H, W] with values in [0, 1]."""
    return torch.stack([torch.from_numpy(np.array(i)) for i in images]).movedim(-1, 1) / 255


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Float tensor [N, 3, H, W] with values in [0, 1] as 8-bit images, rounded to nearest."""
    codes = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1)
    return [Image.fromarray(array) for array in codes.cpu().numpy()]


def save_image(path: Path, image: Image.Image, jpeg_quality: int | None = None) -> None:
    """Write an image so that at no time a part of it is seen under its name; PNG or JPEG."""
    with written_beside(path) as beside:
        if jpeg_quality is None:
            image.save(beside, format="png")
        else:
            image.save(beside, format="jpeg", quality=jpeg_quality)


def read_image(path: Path) -> Image.Image:
    """Decode an image file completely, as RGB.

    Raises:
        DGQError: if it is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            image.verify()  # checksums and the end, which decoding alone does not look at
        with Image.open(path) as image:
            return image.convert("RGB")
    except UNREADABLE as error:
        raise DGQError(f"{path} cannot be read as an image: {error}") from error


def is_readable(path: Path) -> bool:
    """Whether the file decodes completely."""
    try:
        read_image(path)
    except DGQError:
        return False
    return True


def list_images(folder: Path) -> list[Path]:
    """Image files directly in ``folder``, by name.

    Raises:
        DGQError: if the folder does not exist or holds no image.
    """
    if not folder.is_dir():
        raise DGQError(f"{folder} is not a folder; expected a folder of images")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise DGQError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})")
    return found


def as_measured(image: Image.Image, size: int | None, jpeg_quality: int | None) -> Image.Image:
    """The image as a protocol measures it: resized, and if images are JPEG encoded once more.

    Published numbers are of such images (512 px JPEG -> 256 px JPEG), so the second loss counts.
    """
    if size is None:
        return image
    resized = image.resize((size, size))  # PIL's default, bicubic and antialiased
    if jpeg_quality is None:
        return resized
    encoded = BytesIO()
    resized.save(encoded, format="jpeg", quality=jpeg_quality)
    return Image.open(encoded).convert("RGB")
