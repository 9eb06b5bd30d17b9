"""Versions of the packages that numbers depend on."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

DRAWING = ("dgq", "torch", "diffusers", "transformers", "pillow")
"""Packages that images depend on."""

MEASURING = ("numpy", "torchmetrics", "torchvision", "open_clip_torch", "lpips", "image-reward")
"""Further packages that measurements depend on; transformers resizes by torchvision, if it can."""


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those packages that are installed, by name."""
    found = {name: _version(name) for name in packages}
    return {name: known for name, known in found.items() if known is not None}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
