"""Optional packages: either available, or reported in one clear line."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType

from dgq.errors import DGQError


@dataclass(frozen=True)
class Package:
    """A package that only some users need.

    Args:
        module: name of the module to import.
        extra: extra of this project that installs it.
    """

    module: str
    extra: str

    @property
    def is_installed(self) -> bool:
        """Whether it is installed; it is not imported."""
        return find_spec(self.module) is not None

    def load(self) -> ModuleType:
        """Import the package.

        Raises:
            DGQError: if it is missing or broken.
        """
        if not self.is_installed:
            raise DGQError(
                f"the package {self.module} is not installed: pip install 'dgq[{self.extra}]'"
            )
        try:
            return importlib.import_module(self.module)
        except Exception as error:  # a broken dependency raises anything
            raise DGQError(
                f"the package {self.module} is installed but cannot be imported "
                f"({type(error).__name__}: {error}): fix it, or do without"
            ) from error
