"""Learning one target: which parts of its weights and activations, at what rates and penalty."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dgq.math.rounding import temperature_at
from dgq.quantizers.learnable_codes import LearnableCodes
from dgq.quantizers.learnable_output import LearnableOutput
from dgq.quantizers.learnable_range import LearnableRange
from dgq.quantizers.range_quantizer import RangeQuantizer
from dgq.quantizers.soft_weight import rounding_penalty
from dgq.quantizers.weight_quantizer import LearnableRounding
from dgq.settings import FLOAT_BITS, Decay, LearningSettings, NetworkSettings
from dgq.targets.target import Target
from dgq.unet.layers import QuantizedLayer


def layers_of(target: Target) -> list[QuantizedLayer]:
    """The layers of a target whose weights are quantized."""
    return [
        module
        for module in target.parts()
        if isinstance(module, QuantizedLayer) and module.weight_quantizer is not None
    ]


def learnables(modules: Iterable[nn.Module]) -> list[LearnableRounding]:
    """The learnable roundings among some modules."""
    return [m for m in modules if isinstance(m, LearnableRounding)]


def quantizers_of(target: Target) -> list[RangeQuantizer]:
    """The activation quantizers of a target that quantize."""
    return [m for m in target.parts() if isinstance(m, RangeQuantizer) and m.n_bits != FLOAT_BITS]


def start_learning_(target: Target) -> None:
    """Search the ranges of all weights of a target, and round them to nearest as a start."""
    for layer in layers_of(target):
        layer.start_learning_()


def set_soft_rounding_(target: Target, soft: bool) -> None:
    """Learn the rounding softly, or fix it as it stands."""
    for learnable in learnables(target.parts()):
        learnable.logits.requires_grad_(soft)


def harden_(target: Target) -> None:
    """End the learning: every layer of the target keeps packed codes."""
    for layer in layers_of(target):
        layer.harden_()


def start_learning_ranges_(target: Target) -> None:
    """Set the ranges of a target's activations as observed, and start learning them."""
    for quantizer in quantizers_of(target):
        quantizer.fit_()
        quantizer.start_learning_()


def learns_ranges(target: Target) -> bool:
    """Whether ranges of a target's activations are being learned now."""
    return any(q.learnable is not None and q.learnable.active for q in quantizers_of(target))


def harden_ranges_(target: Target) -> None:
    """End the learning of the ranges."""
    for quantizer in quantizers_of(target):
        quantizer.harden_()


def penalty(target: Target, iteration: int, settings: LearningSettings) -> Tensor | float:
    """The term that drives each rounding of a target to 0 or 1, at this iteration."""
    if iteration >= settings.iterations:
        return 0.0
    # Counted from 1, as in BRECQ: the last iteration has the end temperature.
    temperature = temperature_at((iteration + 1) / settings.iterations, settings.warmup)
    if temperature is None:
        return 0.0
    terms = [
        rounding_penalty(m.logits, temperature) for m in learnables(target.parts()) if m.active
    ]
    return settings.penalty * torch.stack(terms).sum() if terms else 0.0


def make_optimizer(
    modules: Iterable[nn.Module],
    settings: LearningSettings,
    network: NetworkSettings | None = None,
    n_blocks: int = 0,
) -> tuple[torch.optim.Adam, torch.optim.lr_scheduler.LambdaLR]:
    """One Adam optimizer over everything learnable in some modules, and its learning rates.

    Adam creates its state when a parameter first gets a gradient. Cleared after each target, the
    state never exceeds that of the current target. The rates start over at each target. Fused, a
    step passes over the parameters once.

    Args:
        modules: modules of the UNet.
        settings: rates and iterations.
        network: rates for the UNet as a whole, if it is visited.
        n_blocks: number of targets before the UNet as a whole.
    """
    found = list(modules)
    parts = learnables(found)
    ranges = [m for m in found if isinstance(m, LearnableRange)]
    outputs = [m for m in found if isinstance(m, LearnableOutput)]
    groups = [
        {"params": [m.logits for m in parts]},
        {"params": [p for m in parts for p in (m.log_gain, m.bias_shift)]},
        {"params": [p for m in ranges for p in m.parameters()]},
        {"params": [p for m in outputs for p in m.parameters()]},
        {"params": [m.offset for m in found if isinstance(m, LearnableCodes)]},
    ]
    optimizer = torch.optim.Adam(groups, lr=1.0, fused=True)
    total = max(1, settings.total_iterations)

    def activations(step: int) -> float:
        if network is None or step < n_blocks * total:
            return activation_lr(step % total, settings)
        return network.activation_lr * left(step)

    def left(step: int) -> float:
        """Factor of the learning rates for the UNet as a whole."""
        return decay(step % total, total, settings.decay)

    rates = [
        lambda step: rounding_lr(step % total, settings),
        lambda step: scale_lr(step % total, settings),
        activations,
        lambda step: 0.0 if network is None else network.lr * left(step),
        lambda step: 0.0 if network is None else network.rounding_lr * left(step),
    ]
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rates)


def rounding_lr(iteration: int, settings: LearningSettings) -> float:
    """Learning rate of the rounding during the iterations; 0 after."""
    return settings.rounding_lr * decay(iteration, settings.iterations, settings.decay)


def scale_lr(iteration: int, settings: LearningSettings) -> float:
    """Learning rate of scales and biases: decays over the iterations, and again over the polish."""
    if iteration < settings.iterations:
        return settings.scale_lr * decay(iteration, settings.iterations, settings.decay)
    polished = iteration - settings.iterations
    return settings.polish_lr * decay(polished, settings.polish_iterations, settings.decay)


def activation_lr(iteration: int, settings: LearningSettings) -> float:
    """Learning rate of the activations' ranges during the polish; 0 before."""
    polished = iteration - settings.iterations
    if polished < 0:
        return 0.0
    return settings.range_lr * decay(polished, settings.polish_iterations, settings.decay)


def decay(iteration: int, n_iterations: int, method: Decay) -> float:
    """Factor of a learning rate: half a cosine from 1 to 0, or 1 until the end."""
    if iteration >= n_iterations:
        return 0.0
    return 1.0 if method == "constant" else 0.5 * (1 + math.cos(math.pi * iteration / n_iterations))
