"""Learning the rounding of one target's weights: what is learned, how fast, at what cost."""

import math

import torch
from torch import Tensor, nn

from dgq.layers import QuantizedLayer
from dgq.rounding import rounding_penalty, soft_rounding, temperature_at
from dgq.settings import LearningSettings
from dgq.weight_quantizer import LearnableRounding


def layers_of(target: nn.Module) -> list[QuantizedLayer]:
    """The layers at or below a target whose weights are quantized."""
    return [
        module
        for module in target.modules()
        if isinstance(module, QuantizedLayer) and module.weight_quantizer is not None
    ]


def learnables(module: nn.Module) -> list[LearnableRounding]:
    """What can be learned at or below a module."""
    return [m for m in module.modules() if isinstance(m, LearnableRounding)]


def start_learning_(target: nn.Module) -> None:
    """Search the ranges of all weights of a target, and round them to nearest for a start."""
    for layer in layers_of(target):
        layer.start_learning_()


def set_soft_rounding_(target: nn.Module, soft: bool) -> None:
    """Let the rounding be learned, or fix it as it stands."""
    for learnable in learnables(target):
        learnable.logits.requires_grad_(soft)


def harden_(target: nn.Module) -> None:
    """End the learning: every layer of the target keeps packed codes."""
    for layer in layers_of(target):
        layer.harden_()


def penalty(target: nn.Module, iteration: int, settings: LearningSettings) -> Tensor | float:
    """The term that drives each rounding of a target to 0 or 1, at this iteration."""
    if iteration >= settings.iterations:
        return 0.0
    temperature = temperature_at(iteration / settings.iterations, settings.warmup)
    if temperature is None:
        return 0.0
    terms = [rounding_penalty(soft_rounding(m.logits), temperature) for m in learnables(target)]
    return settings.penalty * torch.stack(terms).sum() if terms else 0.0


def rounding_lr(iteration: int, settings: LearningSettings) -> float:
    """Learning rate of the rounding: a cosine to 0 over the iterations, then 0."""
    return settings.rounding_lr * cosine_decay(iteration, settings.iterations)


def scale_lr(iteration: int, settings: LearningSettings) -> float:
    """Learning rate of scales and biases: one cosine over the iterations, one over the polish."""
    if iteration < settings.iterations:
        return settings.scale_lr * cosine_decay(iteration, settings.iterations)
    polished = iteration - settings.iterations
    return settings.polish_lr * cosine_decay(polished, settings.polish_iterations)


def cosine_decay(iteration: int, n_iterations: int) -> float:
    """Half a cosine from 1 at iteration 0 to 0 at ``n_iterations`` and after."""
    if iteration >= n_iterations:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * iteration / n_iterations))
