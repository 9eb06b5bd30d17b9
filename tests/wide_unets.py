"""UNets of random codes whose channels are multiples of 32, as kernels of a GPU want them."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_memory import fill_randomly_
from dgq.inference.channel_input import ChannelInput
from dgq.inference.execution import prepare_
from dgq.inference.layers import PackedLayer
from dgq.recipes.ours import Ours
from tests.tiny_pipelines import two_level_unet

TIMESTEPS = (801.0, 401.0, 1.0)
SETTINGS = Ours(weight_bits=4, activation_bits=8).quantization
TEXT_WIDTH = 32


@torch.no_grad()
def wide_unet() -> Any:
    """Two levels of 32 and 64 channels, quantized, in its stored form."""
    torch.manual_seed(0)
    with torch.device("meta"):
        unet = two_level_unet((32, 64), TEXT_WIDTH, n_groups=8).requires_grad_(False)
    fill_randomly_(unet, SETTINGS, TIMESTEPS, (8, 8), flat=False)
    for module in unet.modules():
        if isinstance(module, PackedLayer):  # so that outputs are about as large as inputs
            module.scale.fill_(0.05 / module.fan_in**0.5)
        elif isinstance(module, ChannelInput):
            module.scale.fill_(0.02)
            module.zero_point.random_(100, 156)
        else:
            for tensor in module.parameters(recurse=False):
                tensor.normal_(1.0 if "norm" in type(module).__name__.lower() else 0.0, 0.1)
    prepare_(unet, "float")
    return unet


def call_of(unet: Any, seed: int = 0) -> dict[str, Any]:
    """Random arguments of a call."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    sample, text = normal(2, 4, 8, 8), normal(2, 5, TEXT_WIDTH)
    return {
        **{"sample": sample, "timestep": torch.tensor(TIMESTEPS[1])},
        **{"encoder_hidden_states": text, "return_dict": False},
    }
