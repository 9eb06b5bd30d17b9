"""Group norms of channels-last images, written so that a compiler makes them fast.

Torch's decomposition walks through an image channel by channel, whatever its layout: the kernels
that Inductor generates read and write a few bytes of each cache line, and codes that they emit have
to be laid out again for the product.
"""

import torch
from torch import Tensor, nn

from dgq.ops.reference import IMAGE


class GroupNormByPixels(nn.GroupNorm):
    """The stock group norm; when compiled, it reads an image pixel by pixel."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``[batch, channels, height, width]``."""
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

    Args:
        x: the images.
        n_groups: number of groups that the channels are split into.
        weight: ``[channels]``, or None for 1.
        bias: ``[channels]``, or None for 0.
        eps: added to variances.
    """
    grouped: Tensor = x.float().flatten(1, 2).unflatten(-1, (n_groups, -1))
    variance, mean = torch.var_mean(grouped, (1, 3), correction=0, keepdim=True)
    normed = ((grouped - mean) * (variance + eps).rsqrt()).view(x.shape)
    normed = normed if weight is None else normed * weight.float()
    return (normed if bias is None else normed + bias.float()).to(x.dtype)


def norm_by_pixels_(unet: nn.Module, wanted: bool) -> None:
    """Turn the group norms of a UNet into ``GroupNormByPixels``, or back into stock ones."""
    for module in unet.modules():
        if type(module) in (nn.GroupNorm, GroupNormByPixels):
            module.__class__ = GroupNormByPixels if wanted else nn.GroupNorm
