"""Size of the stock UNet that a quantized one was made from."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from dgq.inspection.cost import parameter_bytes


def full_precision_bytes(unet_config: Mapping[str, Any]) -> int:
    """Bytes of its weights in float32, computed without creating them."""
    with torch.device("meta"):
        return parameter_bytes(UNet2DConditionModel.from_config(dict(unet_config)))
