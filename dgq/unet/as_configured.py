"""Whether a UNet is what its configuration builds, since a quantized model is loaded from that."""

from typing import Any

from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from torch import nn

from dgq.errors import DGQError, first_line
from dgq.unet.configuration import building

PASSING = ("training", "gradient_checkpointing", "sample_size")
"""Attributes that do not belong to the architecture; pipelines correct ``sample_size``."""

HOW = "a quantized model is loaded as its configuration describes it, so this would be lost"


def check_as_configured(unet: UNet2DConditionModel) -> None:
    """Raise DGQError for a UNet whose parts are not those that its configuration builds.

    Args:
        unet: stock, with all that was done to it since it was built.
    """
    try:
        with init_empty_weights(include_buffers=True):
            built = UNet2DConditionModel.from_config(building(unet.config))
    except Exception as error:  # whatever diffusers raises for a configuration of no UNet
        raise DGQError(
            f"the configuration of this UNet builds none ({first_line(error)}): correct it with "
            "unet.register_to_config"
        ) from error
    expected, found = dict(built.named_modules()), dict(unet.named_modules())
    for name in [n for n in (*expected, *found) if not _of_processor(n)]:
        difference = _difference(name, found.get(name), expected.get(name))
        if difference is not None:
            raise DGQError(
                f"{difference}: {HOW}; describe it by unet.register_to_config, or restore it"
            )


def _of_processor(name: str) -> bool:
    """Whether this is an attention processor, or a part of one: these are replaced anyway."""
    return "processor" in name.split(".")


def _difference(name: str, found: nn.Module | None, expected: nn.Module | None) -> str | None:
    """How a module differs from the one in its configuration; None if it does not."""
    if found is None:
        return f"{name} ({type(expected).__name__}) of its configuration is missing"
    if expected is None:
        return f"{name} ({type(found).__name__}) is not in its configuration"
    if name and type(found) is not type(expected):
        return f"{name} is a {type(found).__name__}, by its configuration {type(expected).__name__}"
    own, described = _values(found), _values(expected)
    stored = {**found._parameters, **found._buffers}.keys() - found._non_persistent_buffers_set
    for key in sorted(described.keys() | stored):
        if own.get(key) != described.get(key):
            where = f"{key} of {name}" if name else key
            return f"{where} is {own.get(key)}, by its configuration {described.get(key)}"
    return None


def _values(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module, and the shapes of its own tensors."""
    plain = {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_")
        and key not in PASSING
        and isinstance(value, bool | int | float | str | tuple | None)
    }
    tensors = {**module._parameters, **module._buffers}
    shapes = {key: t if t is None else list(t.shape) for key, t in tensors.items()}
    return plain | shapes
