"""Where a UNet concatenates skips: which input channels of a resnet come from below or a skip."""

from typing import Any

from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from dgq.errors import DGQError


def channels_from_below(unet: nn.Module) -> dict[str, int]:
    """Number of leading input channels, before the skip, of each resnet that reads a skip.

    The up path reads ``torch.cat([hidden, skip], dim=1)`` and takes the down path's skips in
    reverse: the outputs of ``conv_in``, of each resnet, and of each downsampler.

    Args:
        unet: a stock UNet with the blocks of Stable Diffusion, of any depth.

    Returns:
        Channels of ``hidden``, by the name of the resnet; those of the skip follow.

    Raises:
        DGQError: if the blocks concatenate their skips in another way.
    """
    skips = skip_channels(unet)
    found: dict[str, int] = {}
    current = last_channels(unet)
    for name, resnet in resnets_below(unet, "up_blocks").items():
        skip = skips.pop() if skips else 0
        if resnet.in_channels != current + skip:
            raise DGQError(
                f"{name} reads {resnet.in_channels} channels, expected {current} from below and "
                f"{skip} of a skip: this UNet joins its skips in an unknown way"
            )
        found[name] = current
        current = resnet.out_channels
    return found


def skip_channels(unet: Any) -> list[int]:
    """Channels of each skip, in the order in which the down path produces them."""
    skips = [unet.conv_in.out_channels]
    for block in unet.down_blocks:
        skips += [resnet.out_channels for resnet in block.resnets]
        skips += [sampler.out_channels for sampler in block.downsamplers or ()]
    return skips


def last_channels(unet: Any) -> int:
    """Channels that the up path begins with; the middle block does not change their number."""
    channels: int = unet.down_blocks[-1].resnets[-1].out_channels
    return channels


def resnets_below(unet: nn.Module, part: str) -> dict[str, ResnetBlock2D]:
    """The resnets of one part of a UNet, by name, in execution order."""
    return {
        f"{part}.{name}": module
        for name, module in unet.get_submodule(part).named_modules()
        if isinstance(module, ResnetBlock2D) and ".resnets." in f".{name}"
    }
