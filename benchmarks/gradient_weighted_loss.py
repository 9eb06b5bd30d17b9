"""BRECQ's loss: errors of a target, weighted with squared gradients of the network's output.

The Hessian of the network's loss at a target's output is approximated by the diagonal of the Fisher
information (BRECQ, arXiv 2102.05426, equation 10). For a squared error of the UNet's output that
diagonal is ``sum_k (d out_k / d z)^2``, which a random direction of each sample's output estimates.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from dgq.calibration import learning as learn
from dgq.calibration.calibrator import Calibrator
from dgq.math.reconstruction import feature_dim
from dgq.targets import Target
from dgq.unet.call_rows import Call
from dgq.unet.context import quantization

SEED = 0
"""Seed of the random directions."""


@contextmanager
def weighted_by_gradients() -> Iterator[None]:
    """Make calibrations learn with weighted errors, with mean weight 1 at each target."""
    start = Calibrator.start
    weights: dict[str, Tensor] = {}

    def start_with_weights(self: Calibrator, calls: Sequence[Call], *args: Any) -> None:
        weights.update(squared_gradients(self.unet, self.targets, calls))
        start(self, calls, *args)

    def loss(self: Calibrator, rows: Tensor, iteration: int) -> Tensor:
        output, reference = self.samples.visit(self.target).output_and_reference(
            rows, learn.learns_ranges(self.target)
        )
        errors = weights[self.name][rows].float() * (output - reference).square()
        summed = errors.sum(feature_dim(reference)).mean()
        return summed + learn.penalty(self.target, iteration, self.learning)

    with (
        patch.object(Calibrator, "start", start_with_weights),
        patch.object(Calibrator, "loss", loss),
    ):
        yield


def squared_gradients(
    unet: nn.Module, targets: Mapping[str, Target], calls: Sequence[Call]
) -> dict[str, Tensor]:
    """Squared gradient at every element of every target's output, in full precision.

    Args:
        unet: a quantizable UNet.
        targets: single modules, by name.
        calls: one for each micro-batch.

    Returns:
        ``[rows, ...]`` by target, in the order of the calls, with mean 1, in bfloat16.
    """
    generator = torch.Generator().manual_seed(SEED)
    parts = [gradients_of_call(unet, targets, call, generator) for call in calls]
    found = {name: torch.cat([part.pop(name) for part in parts]) for name in targets}
    return {name: squared / squared.float().mean() for name, squared in found.items()}


@torch.enable_grad()
def gradients_of_call(
    unet: nn.Module, targets: Mapping[str, Target], call: Call, generator: torch.Generator
) -> dict[str, Tensor]:
    """The same for one call, without scaling."""
    nodes: dict[str, Tensor] = {}

    def note(name: str, output: Tensor) -> Tensor:
        # The first targets depend on nothing that needs gradients.
        nodes[name] = output if output.requires_grad else output.detach().requires_grad_()
        return nodes[name]

    handles = [
        target.entrance.register_forward_hook(lambda _m, _a, out, name=name: note(name, out))
        for name, target in targets.items()
    ]
    try:
        with quantization(unet, weights=False, activations=False):
            output = unet(**{**call, "return_dict": False})[0]
    finally:
        for handle in handles:
            handle.remove()
    product = (output * torch.randn(output.shape, generator=generator)).sum()
    found = torch.autograd.grad(product, list(nodes.values()))
    return {n: g.square().bfloat16() for n, g in zip(nodes, found, strict=True)}
