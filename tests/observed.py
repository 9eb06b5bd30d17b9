"""Activation quantizers that have observed a tensor, and tensors that are hard to quantize."""

from typing import TypeVar

import torch
from torch import Tensor

from dgq.quantizers.range_quantizer import RangeQuantizer
from dgq.unet.calls import FIRST_STEP, SamplerCall

Q = TypeVar("Q", bound=RangeQuantizer)


def fitted_(quantizer: Q, x: Tensor, step: Tensor = FIRST_STEP) -> Q:
    """Calibrate a quantizer on ``x``; its context stays at the steps of the samples."""
    context = quantizer.context
    context.current = SamplerCall(step, (4, 4))
    context.observing, context.activations = True, False
    quantizer.start_observing_()
    quantizer(x)
    quantizer.fit_()
    context.observing, context.activations = False, True
    return quantizer


def learn_ranges_(quantizer: RangeQuantizer, x: Tensor) -> None:
    """Sixty steps of Adam towards the least error of ``x``."""
    assert quantizer.learnable is not None
    optimizer = torch.optim.Adam(quantizer.learnable.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Normal values, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uneven(*shape: int, seed: int = 0) -> Tensor:
    """Channels (dimension 1) of very different sizes and offsets."""
    size = torch.logspace(-1.5, 1, shape[1]).view(-1, *[1] * (len(shape) - 2))
    return randn(*shape, seed=seed) * size + size.flip(0)
