"""Checks of values, with one-line errors that say what was expected."""

import math
from typing import Any

from dgq.errors import SettingsError


def check_positive(name: str, value: int) -> None:
    """Raise SettingsError unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingsError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_whole(name: str, value: int) -> None:
    """Raise SettingsError unless ``value`` is a whole number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SettingsError(f"{name} must be a whole number of at least 0, got {value!r}")


def check_not_negative(name: str, value: float) -> None:
    """Raise SettingsError unless ``value`` is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SettingsError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < math.inf:
        raise SettingsError(f"{name} must be at least 0 and finite, got {value!r}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise SettingsError unless ``value`` is one of the choices."""
    if value not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_kind(name: str, value: Any, kind: type) -> None:
    """Raise SettingsError unless ``value`` is an instance of the given settings class."""
    if not isinstance(value, kind):
        raise SettingsError(f"{name}: expected dgq.{kind.__name__}, got {value!r:.60}")
