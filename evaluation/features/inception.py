"""Inception-v3 as used for FID: the network whose weights pytorch-fid publishes.

The weights were ported from TensorFlow's ``inception-2015-12-05``, which differs from torchvision's
network: 1008 classes, averages that exclude padding, and maximum pooling in the last block.
Module names follow the published state dict.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_CLASSES = 1008
N_FEATURES = 2048


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        same: bool = False,
    ) -> None:
        super().__init__()
        padding = _same(kernel) if same else 0
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(n_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[N, n_in, H, W] -> [N, n_out, H', W']."""
        return F.relu(self.bn(self.conv(x)))


def _same(kernel: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    return height // 2, width // 2


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """1x1, 5x5, double 3x3 and pooling, side by side."""

    def __init__(self, n_in: int, n_pool: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(n_in, 64, 1)
        self.branch5x5_1 = ConvNorm(n_in, 48, 1)
        self.branch5x5_2 = ConvNorm(48, 64, 5, same=True)
        self.branch3x3dbl_1 = ConvNorm(n_in, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, same=True)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, same=True)
        self.branch_pool = ConvNorm(n_in, n_pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, n_in, H, W] -> [N, 224 + n_pool, H, W]."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        wide = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), wide, double, self.branch_pool(_average(x))], 1)


class BlockB(nn.Module):
    """From 35x35 to 17x17."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(n_in, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNorm(n_in, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, same=True)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, n_in, H, W] -> [N, 480 + n_in, H', W']."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    """7x7 as 1x7 and 7x1, once and twice."""

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = ConvNorm(n_in, 192, 1)
        self.branch7x7_1 = ConvNorm(n_in, width, 1)
        self.branch7x7_2 = ConvNorm(width, width, row, same=True)
        self.branch7x7_3 = ConvNorm(width, 192, column, same=True)
        self.branch7x7dbl_1 = ConvNorm(n_in, width, 1)
        self.branch7x7dbl_2 = ConvNorm(width, width, column, same=True)
        self.branch7x7dbl_3 = ConvNorm(width, width, row, same=True)
        self.branch7x7dbl_4 = ConvNorm(width, width, column, same=True)
        self.branch7x7dbl_5 = ConvNorm(width, 192, row, same=True)
        self.branch_pool = ConvNorm(n_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, n_in, H, W] -> [N, 768, H, W]."""
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    """From 17x17 to 8x8."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvNorm(n_in, 192, 1)
        self.branch3x3_2 = ConvNorm(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNorm(n_in, 192, 1)
        self.branch7x7x3_2 = ConvNorm(192, 192, (1, 7), same=True)
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1), same=True)
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, n_in, H, W] -> [N, 512 + n_in, H', W']."""
        once = self.branch3x3_2(self.branch3x3_1(x))
        long = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([once, self.branch7x7x3_4(long), F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """3x3 split into 1x3 and 3x1; ``pools_maximum`` in the last block, as in TensorFlow."""

    def __init__(self, n_in: int, pools_maximum: bool) -> None:
        super().__init__()
        self.pools_maximum = pools_maximum
        self.branch1x1 = ConvNorm(n_in, 320, 1)
        self.branch3x3_1 = ConvNorm(n_in, 384, 1)
        self.branch3x3_2a = ConvNorm(384, 384, (1, 3), same=True)
        self.branch3x3_2b = ConvNorm(384, 384, (3, 1), same=True)
        self.branch3x3dbl_1 = ConvNorm(n_in, 448, 1)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3, same=True)
        self.branch3x3dbl_3a = ConvNorm(384, 384, (1, 3), same=True)
        self.branch3x3dbl_3b = ConvNorm(384, 384, (3, 1), same=True)
        self.branch_pool = ConvNorm(n_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, n_in, H, W] -> [N, 2048, H, W]."""
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.pools_maximum else _average(x)
        return torch.cat(
            [
                self.branch1x1(x),
                *(self.branch3x3_2a(once), self.branch3x3_2b(once)),
                *(self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)),
                self.branch_pool(pooled),
            ],
            1,
        )


class Inception(nn.Module):
    """Pooled features and class logits of images that are already resized and scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, same=True)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, pools_maximum=False)
        self.Mixed_7c = BlockE(2048, pools_maximum=True)
        self.fc = nn.Linear(N_FEATURES, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 299, 299] in [-1, 1] -> pooled features [N, 2048]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean(dim=(2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """Class logits without bias, as used for torch-fidelity's Inception score, [N, 1008]."""
        return features @ self.fc.weight.T
