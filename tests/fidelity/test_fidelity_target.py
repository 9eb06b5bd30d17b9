"""The learning of a whole target once more: ranges, rounding, scales, bias, ranges of the input.

One convolution alone is quantized, so its inputs are those of the stock UNet. Adam, its rates and
the order of the samples are written out too; only torch's convolution and gradients are shared.
"""

import math
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dgq
from dgq.calibration.calibrator import Calibrator
from dgq.calibration.learning_loop import learn_
from dgq.calibration.progress import CalibrationProgress
from dgq.calibration.row_batches import row_batches, seed_of_target
from dgq.calibration.samples import Sampling
from dgq.math.packing import unpack_codes
from dgq.streams.waiting import StayingPut
from tests.tiny_pipelines import micro_unet, unet_call

NAME = "down_blocks.0.downsamplers.0.conv"
TIMESTEPS = (801.0, 401.0, 1.0)
ROWS, BATCH = 16, 8
PUBLISHED = dgq.LearningSettings(100, 0, 2e-2, 0.0, 0.0, 0.0, "constant", 0.01, 0.2)
OURS = dgq.LearningSettings(30, 15)


class Adam:
    """Kingma and Ba 2014, algorithm 1."""

    def __init__(self, variable: Tensor) -> None:
        self.variable = variable.requires_grad_()
        self.first, self.second, self.steps = torch.zeros_like(variable), 0.0, 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        gradient, self.variable.grad = self.variable.grad, None
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean = self.first / (1 - 0.9**self.steps)
        variance = self.second / (1 - 0.999**self.steps)
        self.variable -= rate * mean / (variance.sqrt() + 1e-8)


def straight(x: Tensor) -> Tensor:
    """Rounded, with the gradient of the identity."""
    return x + (x.round() - x).detach()


def clipped(x: Tensor, largest: int) -> Tensor:
    """Clipped to [0, largest], with the gradient of the identity there, ends included."""
    return torch.where((x >= 0) & (x <= largest), x, x.detach().clamp(0, largest))


def rate_of(rate: float, step: int, n: int, decay: str) -> float:
    return rate if decay == "constant" else rate * (1 + math.cos(math.pi * step / n)) / 2


def best_ranges(rows: Tensor, settings: dgq.WeightSettings) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each row, of 80 candidates the one with the least error."""
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    largest, half = 2**settings.n_bits - 1, 2 ** (settings.n_bits - 1)
    found = []
    for factor in (1 - 0.01 * i for i in range(80)):
        if settings.symmetric:
            scale = torch.maximum(-low / half, high / (half - 1)) * factor
            zero = torch.full_like(scale, half)
        else:
            scale = (high - low) * factor / largest
            zero = (-low * factor / scale).round()
        codes = ((rows / scale[:, None]).round() + zero[:, None]).clamp(0, largest)
        error = ((codes - zero[:, None]) * scale[:, None] - rows).abs().double() ** 2.4
        found.append((error.mean(1), scale, zero))
    errors, scales, zeros = (torch.stack(each) for each in zip(*found, strict=True))
    best = errors.argmin(0, keepdim=True)
    return scales.gather(0, best)[0], zeros.gather(0, best)[0]


def inputs_of_target() -> tuple[nn.Conv2d, Tensor, Tensor]:
    """The stock convolution, its inputs, and the step of each of them."""
    unet, read = micro_unet().requires_grad_(False), []
    conv: Any = unet.get_submodule(NAME)
    conv.register_forward_pre_hook(lambda _m, args: read.append(args[0]))
    for call in calls():
        unet(**call)
    return conv, torch.cat(read), torch.arange(len(TIMESTEPS)).repeat_interleave(ROWS)


def calls() -> list[dict[str, Any]]:
    return [unet_call(micro_unet(), ROWS, t, seed=i) for i, t in enumerate(TIMESTEPS)]


def learned(
    weights: dgq.WeightSettings, learning: dgq.LearningSettings, input_bits: int
) -> dict[str, Tensor]:
    """All that the target's learning ends with."""
    conv, inputs, steps = inputs_of_target()
    reference, rows = conv(inputs), conv.weight.flatten(1)
    largest = 2**weights.n_bits - 1
    scale, zero = best_ranges(rows, weights)
    down = (rows / scale[:, None]).floor()
    fraction = rows / scale[:, None] - down
    rounding = Adam(((fraction + 0.1) / (1.1 - fraction)).log())
    gain, shift = Adam(torch.zeros(len(rows))), Adam(torch.zeros(len(rows)))
    ends = torch.stack([torch.stack(inputs[steps == t].aminmax()) for t in range(len(TIMESTEPS))])
    span = (ends[:, 1] - ends[:, 0]) / (2**input_bits - 1)
    zero_of_input = (-ends[:, 0] / span).round()
    widening, moving = Adam(torch.zeros(len(span))), Adam(torch.zeros(len(span)))

    def weight_of(up: Tensor) -> Tensor:
        codes = clipped(down + zero[:, None] + up, largest)
        weight = (codes - zero[:, None]) * (scale * gain.variable.exp())[:, None]
        return weight.view_as(conv.weight)

    def quantized(x: Tensor, step: Tensor) -> Tensor:
        each = (span * widening.variable.exp())[step].view(-1, 1, 1, 1)
        moved = straight(zero_of_input + 2**input_bits * moving.variable)[step].view(-1, 1, 1, 1)
        return (clipped(straight(x / each) + moved, 2**input_bits - 1) - moved) * each

    batches = row_batches(len(inputs), BATCH, seed_of_target(0, 0))
    n, polish = learning.iterations, learning.polish_iterations
    for i in range(n + polish):
        batch, soft = next(batches), i < n
        up, x = (rounding.variable >= 0).float(), inputs[batch]
        if soft:
            up = clipped(1.2 * rounding.variable.sigmoid() - 0.1, 1)
        elif learning.learns_ranges:
            x = quantized(x, steps[batch])
        output = F.conv2d(x, weight_of(up), conv.bias + shift.variable, 2, 1)
        loss = (output - reference[batch]).square().sum(1).mean()
        progress = (i + 1) / n
        if soft and progress >= learning.warmup:
            temperature = 20 - 18 * (progress - learning.warmup) / (1 - learning.warmup)
            loss = loss + learning.penalty * (1 - (2 * up - 1).abs() ** temperature).sum()
        loss.backward()
        place = (i, n, learning.decay) if soft else (i - n, polish, learning.decay)
        if soft:
            rounding.step(rate_of(learning.rounding_lr, *place))
        for each in (gain, shift):
            each.step(rate_of(learning.scale_lr if soft else learning.polish_lr, *place))
        if not soft and learning.learns_ranges:
            for each in (widening, moving):
                each.step(rate_of(learning.range_lr, *place))
    codes = (down + zero[:, None] + (rounding.variable >= 0)).clamp(0, largest)
    found = {
        "codes": codes,
        "scale": scale * gain.variable.exp(),
        "bias": conv.bias + shift.variable,
        "scale of the input": span * widening.variable.exp(),
        "zero point of the input": (zero_of_input + 2**input_bits * moving.variable).round(),
    }
    return {name: value.detach() for name, value in found.items()}


def calibrated(
    weights: dgq.WeightSettings, learning: dgq.LearningSettings, input_bits: int
) -> dict[str, Tensor]:
    """The same, as a calibration of that one layer ends."""
    layers = (n for n, m in micro_unet().named_modules() if isinstance(m, nn.Linear | nn.Conv2d))
    settings = dgq.QuantizationSettings(
        weights,
        dgq.ActivationSettings(input_bits, n_groups=1),
        dgq.ScoreSettings(16),
        keep=tuple(name for name in layers if name != NAME),
    )
    unet = micro_unet().requires_grad_(False)
    calibrator = Calibrator(unet, dgq.Custom(settings, learning), BATCH)
    one, held_out = (unet_call(unet, 1, t, seed=9) for t in TIMESTEPS[:2])
    calibrator.quantize_(TIMESTEPS, (8, 8), one)
    with CalibrationProgress(1, show=False) as bar:
        calibrator.start(calls(), [held_out], (StayingPut() for _ in count()))
        learn_(calibrator, Sampling(batch_size=BATCH), bar)
    calibrator.close()
    layer: Any = unet.get_submodule(NAME)
    quantizer, of_input = layer.weight_quantizer, layer.input_quantizer
    return {
        "codes": unpack_codes(quantizer.codes, weights.n_bits, quantizer.n_inputs).float(),
        "scale": quantizer.scale,
        "bias": quantizer.bias,
        "scale of the input": of_input.scale.flatten(),
        "zero point of the input": of_input.zero_point.flatten().float(),
    }


@pytest.mark.parametrize(
    ("weights", "learning", "input_bits"),
    [
        (dgq.WeightSettings(4), PUBLISHED, 8),
        (dgq.WeightSettings(3, symmetric=True), OURS, 8),
        (dgq.WeightSettings(4), replace(OURS, activation_lr=0.05), 3),
    ],
    ids=["published", "ours", "ranges too"],
)
def test_a_target_is_learned_as_written(
    weights: dgq.WeightSettings, learning: dgq.LearningSettings, input_bits: int
) -> None:
    found, expected = (each(weights, learning, input_bits) for each in (calibrated, learned))
    nearest = learned(weights, replace(learning, iterations=0, polish_iterations=0), input_bits)
    assert (found["codes"] != nearest["codes"]).sum() > 20
    # A gradient near zero may have another sign on another machine.
    assert (found["codes"] != expected["codes"]).sum() < 4
    assert torch.equal(found["zero point of the input"], expected["zero point of the input"])
    for name in ("scale", "bias", "scale of the input"):
        assert torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-5), name
    learns = {"scale": learning.scale_lr > 0, "bias": learning.scale_lr > 0}
    learns["scale of the input"] = learning.learns_ranges
    for name, moves in learns.items():
        assert torch.allclose(found[name], nearest[name], rtol=1e-3) != moves, name
