"""The numbers of an evaluation, from the images on disk and the UNets."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.markup import escape
from rich.progress import Progress
from torch import Tensor

from data.embedded import DEFAULT
from evaluation.costs import Cost, measure_costs
from evaluation.estimate import Estimate, of_ratios, over_seeds
from evaluation.extractors import Seen
from evaluation.fidelity import unet_sqnr
from evaluation.plan import Plan
from evaluation.quality import Quality, compare, judge_alone, judge_contents, texts_of
from evaluation.references import References, load_references, render_references

METRICS = (
    *("fid", "kid", "inception_score", "clip_score", "image_reward"),
    *("fid_to_full_precision", "kid_to_full_precision", "psnr", "ssim", "lpips"),
)
"""Metrics of every model; those of the oracle come with prompts of a benchmark."""


@dataclass(frozen=True)
class Measured:
    """What was measured, as it goes into ``metrics.json``.

    Args:
        metrics: of each model, by name; None where something could not be measured.
        sqnr: of each model, dB at each step; None in full precision.
        costs: of each model.
        references: how many real images there were; None if unknown.
        notes: what a reader of the numbers has to know.
    """

    metrics: list[dict[str, dict[str, Any] | None]]
    sqnr: list[dict[str, Any] | None]
    costs: list[Cost]
    references: int | None
    notes: list[str]


def measure(plan: Plan, progress: Progress) -> Measured:
    """Compute all metrics; the images must be there."""
    notes = [*plan.prompts.notes, *_protocol_notes(plan), *plan.judges.notes]
    n_steps = len(plan.models) * (len(plan.seeds) + 1) + 1
    task = progress.add_task("metrics", total=n_steps)
    references = _references(plan, notes)
    progress.advance(task)
    texts = texts_of(plan.extractors, _scored_captions(plan))
    expected: list[Seen] = []
    metrics = []
    full_precision: list[Quality] = []
    for number in range(len(plan.models)):
        qualities = []
        for position in range(len(plan.seeds)):
            seen = _look(plan, number, position)
            if number == 0:
                expected.append(seen)
                if position == 0:
                    notes.extend(_sample_size_notes(seen.features, references))
            pair = expected[position], seen
            qualities.append(_judge(plan, number, position, pair, references, texts))
            progress.advance(task)
        notes += [note for quality in qualities for note in quality.notes]
        metrics.append(_estimates(qualities, full_precision, plan.models[number].name, notes))
        full_precision = full_precision or qualities
        progress.advance(task)
    sqnr = [_sqnr(plan, number, progress, notes) for number in range(len(plan.models))]
    costs = measure_costs(plan, notes)
    n_references = None if references is None else references.n
    return Measured(metrics, sqnr, costs, n_references, list(dict.fromkeys(notes)))


def _references(plan: Plan, notes: list[str]) -> References | None:
    """Real images; None with a note where there are none."""
    path, batch_size = plan.settings.protocol.references, plan.settings.batch_size
    if path is not None:
        references = load_references(path, plan.extractors, batch_size, notes)
        if references.features is None:
            notes.append(f"KID: {path.name} has statistics only, and it needs images")
        return references
    size = next(plan.stores(0)[0].measured(1))[0].width
    rendered = render_references(plan.prompts, plan.seeds[0], size, plan.extractors)
    if rendered is None:
        notes.append("FID and KID: need real images; give them or their statistics (--references)")
    return rendered


def _scored_captions(plan: Plan) -> Sequence[str]:
    """Prompts of the images that the CLIP score looks at."""
    return plan.prompts.captions[: plan.settings.protocol.clip_images]


def _look(plan: Plan, number: int, position: int) -> Seen:
    store = plan.stores(number)[position]
    n_embedded = len(_scored_captions(plan))
    return plan.extractors.look(store.measured(plan.settings.batch_size), n_embedded)


def _judge(
    plan: Plan,
    number: int,
    position: int,
    seen: tuple[Seen, Seen],
    references: References | None,
    texts: Tensor | None,
) -> Quality:
    """Everything about the images of one model with one seed."""
    store, batch_size = plan.stores(number)[position], plan.settings.batch_size
    splits = plan.settings.protocol.inception_score_splits
    parts = [
        judge_alone(seen[1], references, texts, splits),
        judge_contents(store, plan.prompts, plan.judges.image_reward, batch_size),
    ]
    if number > 0:
        full_precision = plan.stores(0)[position]
        parts.append(compare(full_precision, store, seen, plan.judges, batch_size))
    quality = Quality()
    for part in parts:
        quality.values |= part.values
        quality.ratios |= part.ratios
        quality.notes += part.notes
    return quality


def _estimates(
    qualities: Sequence[Quality], full_precision: Sequence[Quality], model: str, notes: list[str]
) -> dict[str, dict[str, Any] | None]:
    """Each metric over the seeds, compared with full precision; None for what was not measured."""
    result: dict[str, dict[str, Any] | None] = dict.fromkeys(METRICS)
    for name in qualities[0].values:
        result[name] = _finite(over_seeds([q.values[name] for q in qualities]), name, model, notes)
    for name in qualities[0].ratios:
        known = [quality.ratios[name] for quality in full_precision if name in quality.ratios]
        estimate = of_ratios([quality.ratios[name] for quality in qualities], known or None)
        result[name] = _finite(estimate, name, model, notes)
    return result


def _finite(estimate: Estimate, name: str, model: str, notes: list[str]) -> dict[str, Any] | None:
    """JSON knows no infinity: None instead, and a note that says so."""
    if math.isfinite(estimate.value):
        return asdict(estimate)
    why = "the images compared are equal" if estimate.value > 0 else "there is nothing to measure"
    notes.append(f"{name} of {model}: {estimate.value}, since {why}")
    return None


def _sqnr(plan: Plan, number: int, progress: Progress, notes: list[str]) -> dict[str, Any] | None:
    """SQNR of a model's UNet on the trajectories of the first prompts, None in full precision."""
    if number == 0:
        return None
    task = progress.add_task(f"SQNR of {escape(plan.models[number].name)}", total=plan.n_recorded)
    store = plan.stores(0)[0]
    sqnr = unet_sqnr(
        plan.unet(number),
        [store.trajectory_path(index) for index in range(plan.n_recorded)],
        plan.generation.guidance_scale,
        plan.settings.batch_size,
        plan.device,
        lambda n: progress.advance(task, n),
    )
    if not all(map(math.isfinite, sqnr.plain)):
        notes.append(
            f"SQNR of {plan.models[number].name}: not finite at "
            f"{sum(not math.isfinite(value) for value in sqnr.plain)} of {len(sqnr.plain)} steps"
        )
    return {"plain": _per_step(sqnr.plain), "guided": sqnr.guided and _per_step(sqnr.guided)}


def _per_step(values: list[float]) -> dict[str, Any]:
    """Decibels of each step and their mean; None where they are not finite."""
    mean = sum(values) / len(values)
    return {
        "mean_db": mean if math.isfinite(mean) else None,
        "per_step_db": [value if math.isfinite(value) else None for value in values],
    }


def _protocol_notes(plan: Plan) -> Iterator[str]:
    """What the protocol leaves out, or takes from where it does not fit."""
    protocol, name = plan.settings.protocol, DEFAULT.name
    if protocol.features == "clip" and plan.prompts.benchmark is None:
        yield f"Inception score: its classes are those of {name}, and the prompts are not"
        if protocol.clip is None:
            yield (
                f"FID, KID and CLIP score: the embedded CLIP knows {name} only, so here they mean "
                "little; give --features inception, and a CLIP model with --clip"
            )
    if plan.extractors.clip is None:
        yield "CLIP score: no CLIP model beside Inception; give one with --clip"
    timesteps = {float(t) for t in plan.timesteps()}
    for model in plan.models:
        if model.manifest is not None and not timesteps <= set(model.manifest.timesteps):
            yield (
                f"{model.name} was not calibrated for these sampler steps: the scales of the "
                "nearest calibrated ones were used"
            )


def _sample_size_notes(features: Tensor, references: References | None) -> Iterator[str]:
    """Say so where there are too few images for FID."""
    n, dimensions = features.shape
    if 2 <= n <= dimensions:
        yield (
            f"FID rests on {n} images for {dimensions} features: the covariance is singular, "
            "so compare only with runs of as many images, or look at KID"
        )
    n_real = None if references is None else references.n
    if n_real is not None and n_real <= dimensions and n >= 2:
        yield f"FID rests on {n_real} real images for {dimensions} features"
