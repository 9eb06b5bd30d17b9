"""What chance does to metrics of images: other prompts, other seeds, other scenes.

Prompts are drawn again as the bootstrap of evaluation draws them, the same ones for every
model, so that a difference of two models has the deviation of pairs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

import scenes
from evaluation.bootstrap import Weights, bootstrap_interval
from evaluation.estimate import Array, Ratio, mean, over_seeds
from evaluation.extractors import Extractors
from evaluation.fidelity import decibels, unet_sqnr
from evaluation.gaussian import Gaussian, fit_gaussian, frechet_distance
from evaluation.images import to_tensor
from evaluation.plan import Plan
from evaluation.prompts import Prompts
from evaluation.quality import judge_alone, judge_contents, texts_of
from evaluation.references import MIN_RENDERS, References, render_references
from evaluation.rows import METRICS

MEANS = ("clip_score", "oracle_mean", "oracle_all")
"""Metrics that are means over images."""

RENDER_SEEDS = 1000
"""Distance of the seeds of two draws of renders, which count on from batch to batch."""

SIGNS = {key: better for key, _, better, _ in METRICS}
"""The sign of a change for the better."""

THRESHOLD = 2.0
"""Deviations of the noise that a difference has to exceed."""

MOST_SDS = 999.0
"""Stands for any more deviations, and for a change where there is no noise at all."""

Statistic = Callable[[Weights], float]
"""A metric as a function of how often each prompt counts."""


@dataclass(frozen=True)
class Sample:
    """What is seen in the images of one model with one seed.

    Args:
        features: [n, d], for FID.
        means: for each metric of ``MEANS`` the ratios whose mean it is.
        errors: [n], mean squared difference of each image to full precision, values in [0, 1];
            None in full precision.
    """

    features: Tensor
    means: Mapping[str, Mapping[str, Ratio]]
    errors: Array | None = None

    @property
    def n(self) -> int:
        """How many images."""
        return len(self.features)


@dataclass(frozen=True)
class Judged:
    """The metrics of a sample.

    Args:
        values: by metric.
        replicates: by metric, [resamples], with the prompts drawn again.
    """

    values: dict[str, float]
    replicates: dict[str, Array]


def look(plan: Plan, model: int, position: int = 0) -> Sample:
    """See the images of a model with the seed at a position, which must be there."""
    batch_size, store = plan.settings.batch_size, plan.stores(model)[position]
    captions = plan.prompts.captions
    seen = plan.extractors.look(store.measured(batch_size), len(captions))
    ratios = judge_alone(seen, None, texts_of(plan.extractors, captions), 1).ratios
    ratios |= judge_contents(store, plan.prompts, None, batch_size).ratios
    errors = None if model == 0 else squared_errors(plan, model, position)
    return Sample(seen.features, {name: ratios[name] for name in MEANS}, errors)


def squared_errors(plan: Plan, model: int, position: int) -> Array:
    """Mean squared difference of each image to that in full precision, [n]."""
    stores = plan.stores(0)[position], plan.stores(model)[position]
    batches = (store.measured(plan.settings.batch_size) for store in stores)
    parts = [
        (to_tensor(a).double() - to_tensor(b).double()).square().mean((1, 2, 3))
        for a, b in zip(*batches, strict=True)
    ]
    return torch.cat(parts).numpy()


def statistics(sample: Sample, full_precision: Sample, real: Gaussian) -> dict[str, Statistic]:
    """Every metric of a sample; those to full precision only where it is another sample."""
    found: dict[str, Statistic] = {"fid": lambda w: frechet_distance(real, gaussian(sample, w))}
    for name, ratios in sample.means.items():
        found[name] = _mean_of(list(ratios.values()))
    if sample is not full_precision:
        found["fid_to_full_precision"] = lambda w: frechet_distance(
            gaussian(full_precision, w), gaussian(sample, w)
        )
    if sample.errors is not None:
        error = mean(sample.errors)
        found["psnr"] = lambda w: decibels(1.0, error.value(w))
    return found


def _mean_of(ratios: Sequence[Ratio]) -> Statistic:
    return lambda weights: float(np.mean([ratio.value(weights) for ratio in ratios]))


def gaussian(sample: Sample, weights: Weights) -> Gaussian:
    """That of the features, with each image as often as its weight says."""
    return fit_gaussian(sample.features[np.repeat(np.arange(sample.n), weights.astype(int))])


def resamples(n: int) -> list[Weights]:
    """How often each of n prompts is drawn, in each of the bootstrap's draws."""
    drawn: list[Weights] = []

    def keep(weights: Weights) -> float:
        drawn.append(weights)
        return 0.0

    bootstrap_interval(keep, n)
    return drawn


def judge(sample: Sample, full_precision: Sample, real: Gaussian) -> Judged:
    """All metrics, with the prompts as they are and drawn again."""
    found, drawn = statistics(sample, full_precision, real), resamples(sample.n)
    return Judged(
        {name: statistic(np.ones(sample.n)) for name, statistic in found.items()},
        {name: np.array([statistic(w) for w in drawn]) for name, statistic in found.items()},
    )


def paired_sd(ours: Judged, theirs: Judged | None, metric: str) -> float:
    """Deviation of a metric, or of its difference to another sample's, over the prompts."""
    replicates = ours.replicates[metric]
    if theirs is not None:
        replicates = replicates - theirs.replicates[metric]
    return float(np.nanstd(replicates, ddof=1))


def deviations(difference: float, sd: float) -> float:
    """A difference in deviations of the noise, finite even where there is none."""
    if difference == 0:
        return 0.0
    sds = difference / sd if sd else math.copysign(math.inf, difference)
    return max(-MOST_SDS, min(MOST_SDS, sds))


def advantage(key: str, ours: Judged, theirs: Judged) -> float:
    """How much better a metric is than a rival's, in deviations over prompts drawn in pairs."""
    difference = ours.values[key] - theirs.values[key]
    return deviations(SIGNS[key] * difference, paired_sd(ours, theirs, key))


def images_needed(sds: float, n: int) -> int | None:
    """Images that would bring a difference to the threshold: deviations fall with their root."""
    return math.ceil(n * (THRESHOLD / sds) ** 2) if sds > 0 else None


def spread(values: Sequence[float]) -> dict[str, float | list[float] | None]:
    """Mean and deviation of repeated measurements, and themselves."""
    estimate = over_seeds(values)
    return {"mean": estimate.value, "sd": estimate.std, "values": estimate.seeds}


def seed_values(samples: Sequence[Sample], real: Gaussian) -> dict[str, list[float]]:
    """Each metric of full precision with each seed; FID to full precision of each two of them."""
    values: dict[str, list[float]] = {"fid_to_full_precision": []}
    for sample in samples:
        for name, statistic in statistics(sample, sample, real).items():
            values.setdefault(name, []).append(statistic(np.ones(sample.n)))
    for a, b in combinations([fit_gaussian(sample.features) for sample in samples], 2):
        values["fid_to_full_precision"].append(frechet_distance(a, b))
    return values


def render_distances(n: int, draws: int, size: int, extractors: Extractors) -> list[float]:
    """FID of n renders to renders of other held-out scenes, as many as references are.

    Args:
        n: images of the evaluation.
        draws: how often; each time of other scenes.
        size: side of the renders in pixels.
        extractors: that look at them.
    """
    n_real = max(n, MIN_RENDERS)
    captions = tuple(scenes.sample_captions(n + n_real, 0, "test"))
    distances = []
    for draw in range(1, draws + 1):
        seed = draw * RENDER_SEEDS
        # Only the number of these prompts counts: the renders are of others.
        rendered = render_references(Prompts(captions, "", ""), seed, size, extractors)
        features = features_of(rendered)
        distances.append(
            frechet_distance(fit_gaussian(features[n : n + n_real]), fit_gaussian(features[:n]))
        )
    return distances


def features_of(references: References | None) -> Tensor:
    """Features of renders, which there are wherever prompts are captions of scenes."""
    assert references is not None
    assert references.features is not None
    return references.features


def sqnr_of_prompts(plan: Plan, model: int) -> list[float]:
    """SQNR of a model's UNet in dB, mean over the steps, for each recorded prompt alone."""
    unet, store = plan.unet(model), plan.stores(0)[0]
    guidance = plan.generation.guidance_scale
    paths = [store.trajectory_path(index) for index in range(plan.n_recorded)]
    measured = [unet_sqnr(unet, [p], guidance, 1, plan.device, lambda _: None) for p in paths]
    return [float(np.mean(sqnr.plain)) for sqnr in measured]
