"""The effect of each difference between our learning of the rounding and the published one.

    python benchmarks/fidelity_learning.py

Learns every fifth target of the benchmark's UNet (``single_targets.py``) in our way and with one
difference undone at a time, all from the same inputs. Prints held-out errors relative to nearest
rounding: the mean over the targets, and over the transformer blocks, whose output has tokens. Takes
eight CPU minutes.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.single_targets import single_targets
from dgq import LearningSettings
from dgq.calibration import calibrator
from dgq.math.reconstruction import reconstruction_loss
from dgq.settings import QuantizationSettings

OURS = LearningSettings()
VARIANTS = {
    "nearest": LearningSettings(iterations=0, polish_iterations=0),
    "ours": OURS,
    "loss summed over dimension 1, the tokens": OURS,
    "rounding alone, no scales and biases": replace(OURS, scale_lr=0, polish_lr=0),
    "a constant rate of 1e-3": replace(OURS, rounding_lr=1e-3, decay="constant"),
    "a warm-up of 0.2": replace(OURS, warmup=0.2),
    "penalty 0.01 after a warm-up of 0.2": replace(OURS, penalty=0.01, warmup=0.2),
}
OF_TOKENS = "loss summed over dimension 1, the tokens"


def summed_over_tokens(output: Tensor, reference: Tensor) -> Tensor:
    """The squared error summed over dimension 1, whatever it is, as the public code does."""
    return (output - reference).pow(2).sum(1).mean()


@contextmanager
def loss_of(variant: str) -> Iterator[None]:
    """Learn with the loss of a variant."""
    loss = summed_over_tokens if variant == OF_TOKENS else reconstruction_loss
    with patch.object(calibrator, "reconstruction_loss", loss):
        yield


def main() -> None:
    """Print a Markdown table."""
    errors: dict[str, list[float]] = defaultdict(list)
    of_blocks: dict[str, list[float]] = defaultdict(list)
    for target, learn in single_targets(QuantizationSettings().keep):
        nearest = 1.0
        for variant, settings in VARIANTS.items():
            torch.manual_seed(0)
            with loss_of(variant):
                error, _ = learn(settings)
            nearest = error if variant == "nearest" else nearest
            errors[variant].append(error / nearest)
            if "transformer_blocks" in target:
                of_blocks[variant].append(error / nearest)
        print(f"{target}: {errors['ours'][-1]:.3f}", flush=True)
    print("| | error / nearest | of transformer blocks |\n|---|---|---|")
    for variant in VARIANTS:
        means = [sum(e[variant]) / max(1, len(e[variant])) for e in (errors, of_blocks)]
        print(f"| {variant} | {means[0]:.3f} | {means[1]:.3f} |")


if __name__ == "__main__":
    main()
