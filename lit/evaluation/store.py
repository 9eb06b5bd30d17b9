"""A folder of generated images that a later run can continue, and never mixes with others."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from dgq.errors import DGQError
from dgq.files import write_json
from lit.evaluation.images import is_readable, save_png

MANIFEST = "manifest.json"


class ImageStore:
    """Images ``00000.png``, ``00001.png``, ... and a manifest of what determines them.

    Image i depends on the settings and on prompt i alone, so that a folder serves every run with
    the same settings whose prompts begin, or go on, like its own.

    Args:
        folder: where the images are.
        settings: whatever the images depend on, prompts apart, as JSON values.
        prompts: the prompt of each image.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], prompts: list[str]) -> None:
        self.folder = folder
        self.settings = settings
        self.prompts = prompts

    def path(self, index: int) -> Path:
        """File of one image."""
        return self.folder / f"{index:05d}.png"

    @property
    def paths(self) -> list[Path]:
        """Files of all images, whether there already or not."""
        return [self.path(index) for index in range(len(self.prompts))]

    def conflict(self) -> str | None:
        """What keeps this run from using the folder as it is, in one line; None if nothing."""
        if not self.folder.exists():
            return None
        if not self.folder.is_dir():
            return f"{self.folder} is not a folder"
        if not (self.folder / MANIFEST).exists():
            return f"{self.folder} holds images without a manifest" if self._images() else None
        return self._difference(self._read_manifest())

    def open_(self) -> None:
        """Make the folder ready for this run; images made with other settings are deleted."""
        if self.conflict() is not None:
            for path in [*self._images(), self.folder / MANIFEST]:
                path.unlink(missing_ok=True)
        known = self._read_manifest()
        if known is None or len(known["prompts"]) < len(self.prompts):
            manifest = {"settings": self.settings, "prompts": self.prompts}
            write_json(self.folder / MANIFEST, manifest)

    def missing(self) -> list[int]:
        """Indices of images that are not there, or that do not decode completely."""
        return [i for i in range(len(self.prompts)) if not is_readable(self.path(i))]

    def save(self, index: int, image: Image.Image) -> None:
        """Write one image, atomically."""
        save_png(self.path(index), image)

    def _images(self) -> list[Path]:
        return [p for p in self.folder.glob("*.png") if p.stem.isdigit()]

    def _read_manifest(self) -> dict[str, Any] | None:
        path = self.folder / MANIFEST
        if not path.exists():
            return None
        try:
            manifest = json.loads(path.read_text())
            return {"settings": dict(manifest["settings"]), "prompts": list(manifest["prompts"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {"damaged": True, "settings": {}, "prompts": []}

    def _difference(self, known: dict[str, Any] | None) -> str | None:
        if known is None:
            return None
        if "damaged" in known:
            return f"{self.folder / MANIFEST} is damaged"
        for name in sorted(known["settings"].keys() | self.settings.keys()):
            theirs, ours = known["settings"].get(name), self.settings.get(name)
            if theirs != ours:
                return f"{self.folder} holds images with {name} {theirs!r}, not {ours!r}"
        pairs = zip(known["prompts"], self.prompts, strict=False)
        if any(theirs != ours for theirs, ours in pairs):
            return f"{self.folder} holds images of other prompts"
        return None


def check_stores(stores: list[ImageStore], overwrite: bool) -> None:
    """Compare the stores with what is on disk; nothing is changed.

    Raises:
        DGQError: if a folder holds other images and ``overwrite`` is not set.
    """
    for store in stores:
        conflict = store.conflict()
        fatal = store.folder.exists() and not store.folder.is_dir()
        if conflict and (fatal or not overwrite):
            raise DGQError(f"{conflict}; choose another --output, or --overwrite to delete them")
