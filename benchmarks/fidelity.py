"""The effect of differences from a paper or its public code (docs/explanation/fidelity.md).

    python benchmarks/fidelity.py [--run outputs/dgq_w4a8]

Takes weights and ranges from the last.ckpt of a run of DGQ's recipe, undoes one difference at a
time, and prints the SQNR of the UNet's output on held-out captions. Nothing is relearned.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.groups import outputs, regrouped, run_and_calls
from dgq.math import grouping, log_scores
from dgq.math.grouping import spread
from dgq.math.reconstruction import sqnr_db
from dgq.pipelines.loading import load_unet
from dgq.quantizers.activation_quantizer import ActivationQuantizer
from dgq.settings import QuantizationSettings
from dgq.storage.checkpoint import Manifest
from dgq.unet.attention import QuantizedAttention
from dgq.unet.context import context_of, quantization
from dgq.unet.layers import QuantConv2d
from dgq.unet.start_token import but_start

SEEDS = (0, 1, 2)


@contextmanager
def random_seeds(seed: int) -> Iterator[None]:
    """K-means from random members, as in scikit-learn with ``init="random", n_init=1``."""
    generator = torch.Generator().manual_seed(seed)

    def random_points(points: Tensor, n_points: int) -> Tensor:
        order = torch.rand(points.shape[:2], generator=generator).argsort(1)[:, :n_points]
        return points.gather(1, order[..., None].expand(-1, -1, points.shape[2]))

    with patch.object(grouping, "farthest_points", random_points):
        yield


@contextmanager
def zeros_at_the_last_code() -> Iterator[None]:
    """Quantize scores of zero to the smallest power of two, as the formula says."""

    def powers(scores: Tensor, maximum: Tensor, n_bits: int) -> Tensor:
        ratio = scores / maximum.clamp(min=torch.finfo(scores.dtype).tiny)
        return ratio.log2().neg().round().clamp(0, 2**n_bits - 1).neg().exp2() * maximum

    with patch.object(log_scores, "_powers_of_two", powers):
        yield


def keep_start_of_values_(unet: nn.Module) -> None:
    """Keep the values of the ``<start>`` token in full precision, as its keys are."""

    class ButStart(nn.Module):
        def __init__(self, quantizer: nn.Module) -> None:
            super().__init__()
            self.quantizer = quantizer

        def forward(self, x: Tensor) -> Tensor:
            return but_start(self.quantizer, x, 1)

    for module in unet.modules():
        if isinstance(module, QuantizedAttention) and module.keep_start:
            module.value_quantizer = ButStart(module.value_quantizer)


class Unfolded(QuantConv2d):
    """A convolution whose input is unfolded, then grouped by channel and place in the kernel."""

    unfolded_quantizer: ActivationQuantizer

    def forward(self, input: Tensor, quantized: Tensor | None = None) -> Tensor:
        """``[batch, in, height, width] -> [batch, out, height, width]``."""
        assert not isinstance(self.padding, str)
        columns = F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)
        columns = columns.transpose(1, 2)  # [batch, pixels, in * kh * kw]
        _, weight, bias = self.operands(input, input)
        output = F.linear(self.unfolded_quantizer(columns), weight.flatten(1), bias)
        width = (input.shape[3] + 2 * self.padding[1] - self.kernel_size[1]) // self.stride[1]
        folded: Tensor = output.transpose(1, 2).unflatten(2, (-1, width + 1))
        return folded


def unfold_(unet: nn.Module, batches: list[dict[str, Any]]) -> None:
    """Unfold the inputs of 3x3 convolutions before grouping them, as the public code does."""
    context = context_of(unet)
    found = []
    for module in unet.modules():
        if isinstance(module, QuantConv2d) and module.kernel_size != (1, 1):
            assert module.input_quantizer is not None
            module.__class__ = Unfolded
            module.unfolded_quantizer = ActivationQuantizer(
                module.input_quantizer.settings, context
            )
            module.unfolded_quantizer.start_observing_()
            found.append(module.unfolded_quantizer)
    with quantization(unet, weights=True, activations=False, observing=True):
        outputs(unet, batches)
    for quantizer in found:
        quantizer.fit_()


def with_other_axes(unet: nn.Module) -> tuple[int, int]:
    """Steps at which a quantizer's own spread would choose the other axis, and all steps."""
    other = total = 0
    for module in unet.modules():
        observer = getattr(module, "observer", None)
        if not isinstance(module, ActivationQuantizer) or observer is None:
            continue
        channels, pixels = observer.channels, observer.pixels
        if module.per_tensor or pixels is None or channels.low.numel() == 0:
            continue
        for step in range(channels.low.shape[0]):
            rows = slice(step, step + 1)
            own = spread(pixels.low[rows], pixels.high[rows]) > spread(
                channels.low[rows], channels.high[rows]
            )
            other += bool(own) != module.on_pixels
            total += 1
    return other, total


def one_sided_channels(unet: nn.Module) -> tuple[int, int]:
    """Number of output channels whose weights have one sign, and of all channels.

    Only there does it matter whether a range must include zero.
    """
    weights = [m.weight.flatten(1) for m in unet.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return sum(int(((w > 0).all(1) | (w < 0).all(1)).sum()) for w in weights), sum(
        map(len, weights)
    )


@torch.no_grad()
def main() -> None:
    """Print a Markdown table."""
    manifest, state, batches = run_and_calls(__doc__)
    stock = load_unet(manifest.pipeline)
    measure(manifest, state, batches, outputs(stock, batches))
    print("output channels with weights of one sign: {} of {}".format(*one_sided_channels(stock)))


def measure(
    manifest: Manifest, state: dict[str, Tensor], batches: list[dict[str, Any]], reference: Tensor
) -> None:
    """Measure and print the table."""

    def made(settings: QuantizationSettings = manifest.quantization) -> nn.Module:
        return regrouped(manifest, state, settings)

    def row(label: str, unet: nn.Module) -> None:
        started = time.process_time()
        found = float(sqnr_db(outputs(unet, batches), reference))
        print(f"| {label} | {found:.2f} | {time.process_time() - started:.0f} |", flush=True)

    settings = manifest.quantization
    print("| | SQNR dB | CPU s |\n|---|---|---|")
    unet = made()
    row("as it is", unet)
    print("steps with another axis: {} of {}".format(*with_other_axes(unet)))
    for seed in SEEDS:
        with random_seeds(seed):
            row(f"k-means from random members, seed {seed}", made())
    for n_bits in (settings.scores.n_bits, 4, 3, 2):
        other = replace(settings, scores=replace(settings.scores, n_bits=n_bits))
        row(f"scores of {n_bits} bits", made(other))
        with zeros_at_the_last_code():
            row(f"scores of {n_bits} bits, zeros at the last code", made(other))
    unet = made()
    keep_start_of_values_(unet)
    row("values of the start token kept too", unet)
    unet = made()
    unfold_(unet, batches)
    row("inputs of convolutions unfolded, then grouped", unet)


if __name__ == "__main__":
    main()
