"""The configuration that a UNet is built from again."""

from collections.abc import Mapping
from typing import Any

NOTE = "_use_default_values"
"""Key under which diffusers notes which arguments had their defaults, in an order by chance."""


def building(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose values all count.

    Building from a configuration with the note, diffusers ignores the values of the arguments in
    it, even those that were registered since.
    """
    return {key: value for key, value in config.items() if key != NOTE}
