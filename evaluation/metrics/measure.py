"""Computes the metrics of all models from their samples: values per seed, estimates over seeds."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from evaluation.features.sample import Sample
from evaluation.metrics.estimate import Estimate, of_ratios, over_seeds
from evaluation.metrics.metric import Against, Metric, NotMeasuredError, Value
from evaluation.metrics.registry import all_metrics
from evaluation.words import listed

Estimates = dict[str, dict[str, Any] | None]
"""Estimates of one model by key, as in ``metrics.json``; None for what was not measured."""


@dataclass
class Values:
    """The values of all metrics for one sample.

    Args:
        by_key: values of lines.
        notes: remarks for readers, and what could not be measured.
    """

    by_key: dict[str, Value] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def measure(
    samples: Iterable[Sample],
    metrics: Sequence[Metric],
    names: Sequence[str],
    advance: Callable[[], object],
) -> tuple[list[Estimates], list[str]]:
    """Estimates of every model, and notes.

    Args:
        samples: of each model with each seed, model after model, full precision first.
        metrics: metrics to measure.
        names: names of the models.
        advance: called after each sample and each model.
    """
    estimates: list[Estimates] = []
    notes: list[str] = []
    full_precision: list[Values] = []
    for model, of_model in groupby(samples, key=lambda sample: sample.model):
        seeds = []
        for sample in of_model:
            seeds.append(measure_sample(sample, metrics))
            advance()
        notes += [note for values in seeds for note in values.notes]
        estimates.append(estimate(seeds, full_precision, names[model], notes))
        full_precision = full_precision or seeds
        advance()
    return estimates, notes


def measure_sample(sample: Sample, metrics: Sequence[Metric]) -> Values:
    """The values of all metrics that apply to these images."""
    possible = [m for m in metrics if sample.full_precision or m.against < Against.FULL_PRECISION]
    reasons = show_images(sample, [m for m in possible if m.looks_at_images()])
    values = Values()
    for metric in possible:
        try:
            if metric not in reasons:
                values.by_key |= metric.compute(sample)
        except NotMeasuredError as error:
            reasons[metric] = str(error)
        values.notes += metric.notes(sample)
    for reason in dict.fromkeys(reasons.values()):
        without = dict.fromkeys(metric.name for metric in reasons if reasons[metric] == reason)
        values.notes.append(f"{listed(list(without))}: {reason}")
    return values


def show_images(sample: Sample, metrics: Sequence[Metric]) -> dict[Metric, str]:
    """Feed every image to the metrics in one pass; returns why some could not measure them."""
    for metric in metrics:
        metric.reset()
    reasons: dict[Metric, str] = {}
    for batch in sample.batches() if metrics else ():
        for metric in [metric for metric in metrics if metric not in reasons]:
            try:
                metric.update(batch)
            except NotMeasuredError as error:
                reasons[metric] = str(error)
    return reasons


def estimate(
    seeds: Sequence[Values], full_precision: Sequence[Values], model: str, notes: list[str]
) -> Estimates:
    """Each line over the seeds, compared with full precision.

    Args:
        seeds: values of each seed.
        full_precision: the same in full precision; empty for full precision itself.
        model: name of the model, for notes.
        notes: list to which notes on values that are not finite are appended.
    """
    lines = [line for kind in all_metrics() if kind.always_listed for line in kind.lines]
    result: Estimates = {line.key: None for line in lines}
    for key in seeds[0].by_key:
        values = [each.by_key[key] for each in seeds if key in each.by_key]
        known = [each.by_key[key] for each in full_precision if key in each.by_key]
        if len(values) == len(seeds):
            result[key] = finite(over_prompts(values, known), key, model, notes)
    return result


def over_prompts(values: Sequence[Value], full_precision: Sequence[Value]) -> Estimate:
    """The estimate of one line from its values with each seed."""
    numbers = [value for value in values if isinstance(value, float)]
    if numbers:
        return over_seeds(numbers)
    ratios = [value for value in values if not isinstance(value, float)]
    known = [value for value in full_precision if not isinstance(value, float)]
    return of_ratios(ratios, known or None)


def finite(found: Estimate, key: str, model: str, notes: list[str]) -> dict[str, Any] | None:
    """The value for JSON, which has no infinity: None instead, with a note."""
    if math.isfinite(found.value):
        return asdict(found)
    why = "the images compared are equal" if found.value > 0 else "there is nothing to measure"
    notes.append(f"{key} of {model}: {found.value}, since {why}")
    return None
