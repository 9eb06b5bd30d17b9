"""Images as tensors, and as files that are either complete or absent."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dgq.errors import DGQError
from dgq.storage.files import check_regular, exists, written_beside

MANY = 3
"""Number of names that are listed."""

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
"""Modes whose conversion to RGB neither scales nor clips values."""


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Images of one size as a float tensor [N, 3, H, W] with values in [0, 1]."""
    return torch.stack([torch.from_numpy(np.array(i)) for i in images]).movedim(-1, 1) / 255


def to_images(pixels: Tensor) -> list[Image.Image]:
    """A float tensor [N, 3, H, W] with values in [0, 1] as 8-bit images, rounded to nearest."""
    codes = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1)
    return [Image.fromarray(array) for array in codes.cpu().numpy()]


def encoded(image: Image.Image, jpeg_quality: int | None = None) -> bytes:
    """The bytes of an image file, JPEG if a quality is given, else PNG."""
    content = BytesIO()
    if jpeg_quality is None:
        image.save(content, format="png")
    else:
        image.save(content, format="jpeg", quality=jpeg_quality)
    return content.getvalue()


def save_image(path: Path, content: bytes) -> None:
    """Write an image file atomically, so that no partial file is ever visible under its name."""
    with written_beside(path) as beside:
        beside.write_bytes(content)


def read_image(path: Path) -> Image.Image:
    """Decode an image file completely, as RGB of 8 bits.

    Raises:
        DGQError: if it is missing, truncated or no image, or holds several images or unscaled
            values.
    """
    check_regular(path)
    try:
        with Image.open(path) as image:
            image.verify()  # checksums and the end, which decoding alone does not check
        with Image.open(path) as image:
            n_frames = getattr(image, "n_frames", 1)
            if n_frames > 1:
                raise ValueError(f"it holds {n_frames} pictures, not one")
            return as_rgb(image)
    except Exception as error:  # PIL's decoders raise all kinds for damaged files
        raise DGQError(f"{path} cannot be read as an image: {error}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """An image as 8-bit RGB; 16 bits are scaled, since PIL would clip them.

    Raises:
        ValueError: for values whose white level is unknown.
    """
    if image.mode.startswith("I;16"):
        scaled = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
    if image.mode not in EIGHT_BITS:
        raise ValueError(f"its numbers ({image.mode}) are not scaled to 8 or 16 bits")
    return image.convert("RGB")


def list_images(folder: Path, notes: list[str] | None = None) -> list[Path]:
    """Image files directly in ``folder``, sorted by name, including any without an image suffix.

    Args:
        folder: folder of the images.
        notes: list to which the number and names of other entries are appended.

    Raises:
        DGQError: if the folder does not exist or holds no image.
    """
    if not (exists(folder) and folder.is_dir()):
        raise DGQError(f"{folder} is not a folder; expected a folder of images")
    entries = sorted(folder.iterdir())
    found = [path for path in entries if path.is_file() and _looks_like_image(path)]
    others = sorted(set(entries).difference(found))
    if not found:
        held = f", but {named(others)}, which are not looked into" if others else ""
        raise DGQError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))}){held}")
    if others and notes is not None:
        notes.append(
            f"references: {len(others)} entries of {folder} are not images and were left out, "
            f"folders included: {named(others)}"
        )
    return found


def named(paths: Sequence[Path]) -> str:
    """The first few names, as printable text in any encoding."""
    names = [path.name.encode("utf-8", "backslashreplace").decode() for path in paths[:MANY]]
    return ", ".join(names) + (", ..." if len(paths) > MANY else "")


def _looks_like_image(path: Path) -> bool:
    """Whether a file has the name of an image, or is an image under another name."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with Image.open(path):
            return True
    except Exception:
        return False


def as_measured(image: Image.Image, size: int | None, jpeg_quality: int | None) -> Image.Image:
    """The image as the protocol measures it: resized, and encoded once more if images are JPEG.

    Published numbers are for such images (512 px JPEG -> 256 px JPEG), so the second loss counts.
    """
    if size is None:
        return image
    resized = image.resize((size, size))  # PIL's default, bicubic and antialiased
    if jpeg_quality is None:
        return resized
    encoded = BytesIO()
    resized.save(encoded, format="jpeg", quality=jpeg_quality)
    return Image.open(encoded).convert("RGB")
