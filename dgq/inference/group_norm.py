"""Group norms of images that lie pixel by pixel, in a form that a compiler makes fast.

Torch's decomposition goes through an image channel by channel, whatever its layout: kernels that
Inductor makes of it read and write a few bytes of each line of memory, and codes made of it have to
be laid out again for the product.
"""

import torch
from torch import Tensor, nn

from dgq.ops.reference import IMAGE


class GroupNormByPixels(nn.GroupNorm):
    """As the stock one; compiled, it reads an image in the order of its pixels."""

    def forward(self, input: Tensor) -> Tensor:
        """Of ``[batch, channels, height, width]``."""
        by_pixels = input.ndim == IMAGE and input.is_contiguous(memory_format=torch.channels_last)
        if not (by_pixels and torch.compiler.is_compiling()):
            return super().forward(input)
        pixels = input.permute(0, 2, 3, 1)
        normed = norm_pixels(pixels, self.num_groups, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


def norm_pixels(
    x: Tensor, n_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Group normalization (1803.08494) of ``[batch, height, width, channels]``, in its dtype.

    Mean and variance of each channel first, which takes whole lines of memory; those of groups
    follow from them.

    Args:
        x: the images.
        n_groups: that channels are split into.
        weight: ``[channels]``, or None for 1.
        bias: ``[channels]``, or None for 0.
        eps: added to variances.
    """
    batch, channels = x.shape[0], x.shape[-1]
    of_channels = torch.var_mean(x.float().flatten(1, 2), 1, correction=0)
    variance, mean = (each.view(batch, n_groups, -1) for each in of_channels)
    between, mean = torch.var_mean(mean, -1, correction=0, keepdim=True)
    deviation = (variance.mean(-1, keepdim=True) + between + eps).rsqrt()
    by_group = (batch, n_groups, channels // n_groups)
    factor = deviation.expand(by_group).reshape(batch, channels)
    factor = factor if weight is None else factor * weight.float()
    shift = -mean.expand(by_group).reshape(batch, channels) * factor
    shift = shift if bias is None else shift + bias.float()
    return (x.float() * factor[:, None, None] + shift[:, None, None]).to(x.dtype)


def norm_by_pixels_(unet: nn.Module, wanted: bool) -> None:
    """Let the group norms of a UNet be ``GroupNormByPixels``, or stock ones again."""
    before, after = nn.GroupNorm, GroupNormByPixels
    if not wanted:
        before, after = GroupNormByPixels, nn.GroupNorm  # type: ignore[assignment]
    for module in unet.modules():
        if type(module) is before:
            module.__class__ = after
