"""A folder of generated images that a later run can resume, and that never mixes with others."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from dgq.errors import DGQError
from dgq.storage.files import read_json, remove_leftovers, write_json
from evaluation.images.files import as_measured, encoded, read_image, save_image
from evaluation.images.tag import is_intact, tagged

MANIFEST = "manifest.json"
READERS = 4


class ImageStore:
    """Images ``00000.png``, ``00001.png``, ... and a manifest of what determines them.

    The folder's name contains a fingerprint of the settings, so other settings use other folders.
    Image i depends only on the settings and prompt i, so a folder serves every evaluation with
    these settings whose list of prompts starts with its own, or the other way round.

    Args:
        parent: folder of all stores.
        name: name of the model, for readers.
        settings: everything that the images depend on, except the prompts, as JSON values.
        prompts: the prompt of each image.
        jpeg_quality: quality of JPEG; None for PNG.
        measured_size: side that images are resized to before they are measured.
    """

    def __init__(
        self,
        parent: Path,
        name: str,
        settings: Mapping[str, Any],
        prompts: Sequence[str],
        jpeg_quality: int | None = None,
        measured_size: int | None = None,
    ) -> None:
        self.settings = {**settings, "jpeg_quality": jpeg_quality}
        self.folder = parent / f"{name}-{fingerprint(self.settings)}"
        self.prompts = list(prompts)
        self.jpeg_quality = jpeg_quality
        self.measured_size = measured_size

    def path(self, index: int) -> Path:
        """File of one image."""
        return self.folder / f"{index:05d}.{'png' if self.jpeg_quality is None else 'jpg'}"

    def trajectory_path(self, index: int) -> Path:
        """File of the recorded UNet calls of one image, if they were recorded."""
        return self.folder / "trajectories" / f"{index:05d}.safetensors"

    @property
    def paths(self) -> list[Path]:
        """Files of all images, existing or not."""
        return [self.path(index) for index in range(len(self.prompts))]

    def check(self) -> None:
        """Raise DGQError if the folder cannot be used; nothing is changed."""
        known = self._read_manifest()
        if known is None:
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise DGQError(f"{self.folder} holds something else than images: move it away")
            return
        pairs = zip(known["prompts"], self.prompts, strict=False)
        if known["settings"] != self.settings or any(theirs != ours for theirs, ours in pairs):
            raise DGQError(f"{self.folder} holds other images: choose another --images folder")

    def open_(self) -> None:
        """Make the folder, and describe its images in it."""
        remove_leftovers(self.folder)
        remove_leftovers(self.trajectory_path(0).parent)
        known = self._read_manifest()
        if known is None or len(known["prompts"]) < len(self.prompts):
            manifest = {"settings": self.settings, "prompts": self.prompts}
            write_json(self.folder / MANIFEST, manifest)

    def which(self, index: int) -> str:
        """Everything that determines an image, for its checksum."""
        return f"{fingerprint(self.settings)} {index} {self.prompts[index]}"

    def missing(self) -> list[int]:
        """Indices of images that are missing, or not as they were drawn."""
        with ThreadPoolExecutor(READERS) as pool:
            intact = pool.map(self._is_intact, range(len(self.prompts)))
            return [index for index, whole in enumerate(intact) if not whole]

    def _is_intact(self, index: int) -> bool:
        path = self.path(index)
        return path.is_file() and is_intact(path.read_bytes(), self.which(index))

    def save(self, index: int, image: Image.Image) -> None:
        """Write one image with its checksum, atomically."""
        content = tagged(encoded(image, self.jpeg_quality), self.which(index))
        save_image(self.path(index), content)

    def measured(self, batch_size: int) -> Iterator[list[Image.Image]]:
        """All images in order and in batches, as the protocol measures them."""
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(self.prompts), batch_size):
                indices = range(start, min(start + batch_size, len(self.prompts)))
                yield list(pool.map(self._measured, indices))

    def _measured(self, index: int) -> Image.Image:
        path = self.path(index)
        if not self._is_intact(index):
            raise DGQError(
                f"{path} cannot be read as an image: it is not as it was drawn; call again, and it "
                "is drawn again"
            )
        return as_measured(read_image(path), self.measured_size, self.jpeg_quality)

    def _read_manifest(self) -> dict[str, Any] | None:
        path = self.folder / MANIFEST
        if not path.exists():
            return None
        try:
            manifest = read_json(path)
            return {"settings": dict(manifest["settings"]), "prompts": list(manifest["prompts"])}
        except (DGQError, ValueError, KeyError, TypeError) as error:
            raise DGQError(
                f"{path} is damaged ({type(error).__name__}): delete its folder, and its images "
                "are drawn again"
            ) from error


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Ten digits of a hash of JSON values."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
