"""Checks that the fields of a dataclass have their declared types."""

import os
import types
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dgq.errors import SettingsError

NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "None",
}


def check_types(settings: Any, prefix: str = "") -> None:
    """Raise SettingsError for a field of another type; values of choices are checked elsewhere.

    Args:
        settings: a dataclass.
        prefix: prefix of the fields' names, for the message.
    """
    kind: Any = type(settings)
    hints = hints_of(kind)
    for field in fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        if not is_of(value, hint):
            raise SettingsError(f"{prefix}{field.name} must be {name_of(hint)}, got {value!r:.60}")


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """The declared types of a class's fields."""
    return get_type_hints(kind)


def is_of(value: Any, hint: Any) -> bool:
    """Whether a value has a declared type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(is_of(value, each) for each in inner)
    if origin is Literal or hint is Any:
        return True
    if origin is tuple:  # of any length
        return isinstance(value, tuple | list) and all(is_of(item, inner[0]) for item in value)
    if origin is Mapping:
        is_mapping = isinstance(value, Mapping)
        return is_mapping and all(
            is_of(k, inner[0]) and is_of(v, inner[1]) for k, v in value.items()
        )
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and type(value) is not bool
    if hint is Path:
        return isinstance(value, str | os.PathLike)
    return isinstance(value, hint)


def name_of(hint: Any) -> str:
    """A declared type as text."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(name_of(each) for each in inner)
    if origin is tuple:
        return f"a list of {name_of(inner[0])}"
    if origin is Mapping:
        return f"{name_of(inner[1])} by {name_of(inner[0])}"
    if origin is Literal:
        return " or ".join(map(str, inner))
    return NAMES.get(hint) or f"a {hint.__name__}"
