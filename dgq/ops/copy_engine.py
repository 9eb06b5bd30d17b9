"""GPUs that copy whole boxes of a tensor by themselves, and have room for tiles made of them."""

from functools import cache

import torch

COPIES_BOXES = (9, 10)
"""Major compute capabilities of Hopper and of Blackwell for data centres."""


@cache
def has_copy_engine(device: torch.device) -> bool:
    """Whether a device is such a GPU."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in COPIES_BOXES
