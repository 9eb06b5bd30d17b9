"""Packages that only some users want: there, or named in one clear line."""

import importlib
from importlib.util import find_spec
from types import ModuleType

from dgq.errors import DGQError

EXTRAS = {"open_clip": "open_clip", "lpips": "lpips", "ImageReward": "image_reward"}
"""Name of the module: name of the extra that installs it."""


def is_installed(module: str) -> bool:
    """Whether a package is there; it is not imported."""
    return find_spec(module) is not None


def import_extra(module: str) -> ModuleType:
    """The package, imported.

    Raises:
        DGQError: if it is missing or broken.
    """
    if not is_installed(module):
        raise DGQError(
            f"the package {module} is not installed: pip install 'dgq[{EXTRAS[module]}]'"
        )
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken dependency raises anything
        raise DGQError(
            f"the package {module} is installed but cannot be imported "
            f"({type(error).__name__}: {error}): mend it, or do without"
        ) from error
