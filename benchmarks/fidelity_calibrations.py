"""Which differences from the papers matter, among those that need a calibration to measure.

    python benchmarks/fidelity_calibrations.py [--only WORD ...] [--bits W4A8] [--seeds 0 1 2]

Calibrates embedded models with a recipe as it is and with one difference undone, measures both on
64 held-out prompts, and prints the SQNR of the UNet's output and the gain of our way. It reuses
finished runs of ``benchmarks/ablation``. Each calibration takes three to five CPU minutes.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.ablation.cells import Calibration
from benchmarks.fidelity_learning import OF_TOKENS, loss_of
from benchmarks.gradient_weighted_loss import weighted_by_gradients
from benchmarks.scripts import exit_code
from benchmarks.trials import Patch, Trial, mean_and_spread, measured
from dgq.pipelines.loading import load_unet
from dgq.recipes import DGQ, TFMQ, QDiffusion, Recipe
from dgq.settings import LayerSettings, LearningSettings, QuantizationSettings
from dgq.settings.learning import RANGE_LR
from dgq.targets import find_time_path

MODELS = ("scenes", "scenes-xl")
BITS = ("W4A8", "W4A6", "W4A4")


@dataclass(frozen=True)
class Difference:
    """Our way and the published way of one thing.

    Args:
        label: what differs.
        bits: bits of both models.
        ours: the model as it is.
        published: the same with the difference undone.
    """

    label: str
    bits: str
    ours: Trial
    published: Trial


def differences(seed: int) -> Iterator[Difference]:
    """All differences that can be measured, with calibrations of this seed."""
    yield from losses(seed)
    yield from warm_up(seed)
    yield from learned_ranges(seed)
    yield from bits_of_scores(seed)
    yield from static_outside_the_time_path(seed)


def losses(seed: int) -> Iterator[Difference]:
    """How errors of a target are summed."""
    ours = trial("dgq_w4a8", DGQ(4, 8), seed)
    patches: dict[str, tuple[str, Patch]] = {
        "errors summed over tokens": ("of-tokens", partial(loss_of, OF_TOKENS)),
        "errors weighted by squared gradients": ("by-gradients", weighted_by_gradients),
    }
    for label, (name, patch) in patches.items():
        published = replace(trial(f"dgq_w4a8-{name}", DGQ(4, 8), seed), patch=patch)
        yield from at_8_and_6_bits(label, ours, published)


def warm_up(seed: int) -> Iterator[Difference]:
    """A warm-up of a fifth of the iterations, without the penalty."""
    warm = DGQ(4, 8, learning=LearningSettings(warmup=0.2))
    for model in MODELS:
        ours = trial("dgq_w4a8", DGQ(4, 8), seed, model)
        published = trial("dgq_w4a8-warmup", warm, seed, model)
        yield from at_8_and_6_bits("warm-up of 0.2", ours, published)


def at_8_and_6_bits(label: str, ours: Trial, published: Trial) -> Iterator[Difference]:
    """DGQ with weights learned in both ways."""
    yield Difference(label, "W4A8", ours, published)
    at_6 = [with_activations(each, DGQ(4, 6)) for each in (ours, published)]
    yield Difference(label, "W4A6", *at_6)


def learned_ranges(seed: int) -> Iterator[Difference]:
    """Step sizes of the activations learned at 8 and 6 bits too; ours only at 4 bits."""
    ours = trial("qdiffusion_w4a8", QDiffusion(4, 8), seed)
    for bits, as_it_is in ((8, ours), (6, with_activations(ours, QDiffusion(4, 6)))):
        recipe = QDiffusion(4, bits, learning=LearningSettings(activation_lr=RANGE_LR))
        published = trial(f"qdiffusion_w4a{bits}-learned-ranges", recipe, seed)
        yield Difference("step sizes learned", f"W4A{bits}", as_it_is, published)


def bits_of_scores(seed: int) -> Iterator[Difference]:
    """Scores at 8 bits with activations at 6 bits, and at 4."""
    run = trial("qdiffusion_w4a8", QDiffusion(4, 8), seed)
    pair = [with_activations(run, QDiffusion(4, 6, score_bits=bits)) for bits in (None, 8)]
    yield Difference("scores of 8 bits", "W4A6", *pair)
    ours = trial("qdiffusion_w4a4", QDiffusion(4, 4), seed)
    published = trial("qdiffusion_w4a4-scores-8", QDiffusion(4, 4, score_bits=8), seed)
    yield Difference("scores of 8 bits", "W4A4", ours, published)


def static_outside_the_time_path(seed: int) -> Iterator[Difference]:
    """TFMQ's ranges: per step only in the time path."""
    run = trial("tfmq_w4a8", TFMQ(4, 8), seed)
    for bits, ours in ((8, run), (6, with_activations(run, TFMQ(4, 6)))):
        published = replace(run, change=f"a{bits}-static-blocks", settings=static_blocks(bits))
        yield Difference("static ranges outside the time path", f"W4A{bits}", ours, published)


def static_blocks(bits: int) -> QuantizationSettings:
    """One range for all steps, except in layers that depend on the timestep alone."""
    settings = TFMQ(4, bits).quantization
    _, path = find_time_path(load_unet(MODELS[0]), settings.keep)
    static = replace(settings.activations, per_step=False)
    own = {name: LayerSettings(activations=settings.activations) for name in sorted(path)}
    return replace(settings, activations=static, layers=own)


def trial(label: str, recipe: Recipe, seed: int, model: str = MODELS[0]) -> Trial:
    """A run, named as in the ablation."""
    return Trial(Calibration(model, label, recipe, seed))


def with_activations(run: Trial, recipe: DGQ | QDiffusion | TFMQ) -> Trial:
    """A run at 8 bits with another recipe's activations, named as in the ablation."""
    score_bits = "" if recipe.score_bits is None else f"--score_bits-{recipe.score_bits}"
    change = f"activation_bits-{recipe.activation_bits}{score_bits}"
    return replace(run, change=change, settings=recipe.quantization)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; exit code 0, or 2 after one line about bad input."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=[""], help="words in the differences' labels")
    parser.add_argument("--bits", nargs="+", default=BITS, choices=BITS)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of calibrations")
    arguments = parser.parse_args(argv)

    def wanted(difference: Difference) -> bool:
        words = any(word in difference.label for word in arguments.only)
        model = difference.ours.calibration.model
        return words and model in arguments.models and difference.bits in arguments.bits

    by_seed = [list(filter(wanted, differences(seed))) for seed in arguments.seeds]
    return exit_code(lambda: print_table(list(zip(*by_seed, strict=True))))


def print_table(rows: Sequence[Sequence[Difference]]) -> None:
    """Print each difference's row, over all seeds, once it is measured; then the whole table."""
    found = []
    for row in rows:
        ours = [measured(difference.ours)["sqnr_db"] for difference in row]
        published = [measured(difference.published)["sqnr_db"] for difference in row]
        gains = [a - b for a, b in zip(ours, published, strict=True)]
        texts = [mean_and_spread(values) for values in (ours, published)]
        texts.append(mean_and_spread(gains, "+.2f"))
        first = row[0]
        names = (first.label, first.ours.calibration.model, first.bits)
        found.append("| " + " | ".join((*names, *texts)) + " |")
        print(found[-1], flush=True)
    head = "| difference | model | bits | ours, dB | as published, dB | ours better by, dB |"
    print("\n".join(["", head, "|---" * 6 + "|", *found]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
