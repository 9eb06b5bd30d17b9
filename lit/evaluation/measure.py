"""The numbers of an evaluation, from the images on disk and the two UNets."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from rich.progress import Progress
from torch import Tensor

import scenes
from dgq.cost import count_operations, parameter_bytes, state_bytes
from lit.evaluation import metrics
from lit.evaluation.batching import batched
from lit.evaluation.features import ImageFeatures
from lit.evaluation.fidelity import record_call, unet_sqnr
from lit.evaluation.images import read_image, read_images, to_images, to_tensor
from lit.evaluation.plan import Plan
from lit.evaluation.prompts import reference_captions
from lit.evaluation.store import ImageStore

MIN_REFERENCES = 1024
"""Scenes are cheap to draw: more of them than images make FID steadier."""

RENDER_BATCH = 64
"""Scenes drawn at once, with a seed for each batch."""


@dataclass(frozen=True)
class Measured:
    """What was measured of both pipelines, as it goes into ``metrics.json``.

    Args:
        full_precision: metrics of the full-precision pipeline.
        quantized: the same of the quantized one, and its distances to full precision.
        cost: bit operations and bytes of both.
        notes: what a reader of the numbers has to know.
    """

    full_precision: dict[str, Any]
    quantized: dict[str, Any]
    cost: dict[str, dict[str, int]]
    notes: list[str]


def measure(plan: Plan, progress: Progress) -> Measured:
    """Compute all metrics; the images must be there."""
    notes: list[str] = []
    task = progress.add_task("metrics", total=4)
    references = _reference_features(plan, notes)
    progress.advance(task)
    texts = plan.clip.texts(plan.prompts.captions)
    if not plan.prompts.are_scenes:
        notes.append("inception_score: its classes are those of scenes, and the prompts are not")
        if plan.settings.clip is None:
            notes.append(
                "FID and CLIP score: the embedded CLIP knows scenes only, so here they mean "
                "little; give a CLIP model with --clip"
            )
    features, results = [], []
    for store in (plan.full_precision_images, plan.quantized_images):
        features.append(plan.clip.images(_batches(plan, store)))
        results.append(_quality(plan, features[-1], references, texts))
        results[-1]["oracle"] = _oracle(plan, store, notes)
        progress.advance(task)
    results[1] |= _fidelity(plan, features[0].pooled, features[1].pooled, progress)
    progress.advance(task)
    notes.extend(_sample_size_notes(features[0].pooled, references))
    full_precision, quantized = (_finite(result, notes) for result in results)
    return Measured(full_precision, quantized, _cost(plan), list(dict.fromkeys(notes)))


def _quality(
    plan: Plan, features: ImageFeatures, references: Tensor | None, texts: Tensor
) -> dict[str, Any]:
    """What the features of one pipeline's images say about them."""
    score = None
    if plan.prompts.are_scenes:
        logits = plan.clip.logits(features.embeddings, scenes.class_prompts())
        score = metrics.inception_score(logits)
    return {
        "fid": _fid(references, features.pooled),
        "inception_score": score,
        "clip_score": metrics.clip_score(features.embeddings, texts),
    }


def _reference_features(plan: Plan, notes: list[str]) -> Tensor | None:
    """Features of real images, [M, d]; None with a note where there are no such images."""
    batch_size = plan.settings.batch_size
    if plan.references is not None:
        return plan.clip.images(read_images(plan.references, batch_size)).pooled
    if plan.prompts.are_scenes:
        return plan.clip.images(_rendered(plan)).pooled
    notes.append("fid: needs real images; give a folder of them with --references")
    return None


def _rendered(plan: Plan) -> Iterator[list[Image.Image]]:
    """Renders of other held-out scenes, at least as many as there are images."""
    n = max(len(plan.prompts.captions), MIN_REFERENCES)
    size = read_image(plan.full_precision_images.path(0)).width
    captions = reference_captions(n, plan.settings.seed)
    for number, batch in enumerate(batched(captions, RENDER_BATCH)):
        yield to_images(scenes.render(batch, size, plan.settings.seed + number))


def _batches(plan: Plan, store: ImageStore) -> Iterator[list[Image.Image]]:
    return read_images(store.paths, plan.settings.batch_size)


def _fid(reference: Tensor | None, features: Tensor) -> float | None:
    """FID; None without references, or with a single image, which has no covariance."""
    if reference is None or min(len(reference), len(features)) < 2:
        return None
    return metrics.frechet_distance(reference, features)


def _oracle(plan: Plan, store: ImageStore, notes: list[str]) -> dict[str, float | None] | None:
    """What is read back from the images: mean, faultless share, and each attribute.

    An attribute that no caption asks for is None; all of it is None where it cannot be read.
    """
    if not plan.prompts.are_scenes:
        return None
    pixels = torch.cat([to_tensor(batch) for batch in _batches(plan, store)])
    try:
        summary = scenes.score(pixels, plan.prompts.captions).summary()
    except ValueError as error:  # not square, or too small to be read
        notes.append(f"oracle: {error}")
        return None
    return {name: summary.get(name) for name in ("mean", "all", *scenes.ATTRIBUTES)}


def _fidelity(plan: Plan, expected: Tensor, actual: Tensor, progress: Progress) -> dict[str, Any]:
    """Distances of the quantized pipeline to the full-precision one."""
    prompts = plan.prompts.captions[: plan.settings.sqnr_prompts]
    batch_size = plan.settings.batch_size
    per_step = unet_sqnr(
        plan.pipeline, plan.quantized, prompts, plan.sampling, batch_size, progress
    )
    return {
        "fid_to_full_precision": _fid(expected, actual),
        "psnr": metrics.psnr(
            _batches(plan, plan.full_precision_images), _batches(plan, plan.quantized_images)
        ),
        "sqnr_db": sum(per_step) / len(per_step),
        "sqnr_db_per_step": per_step,
    }


def _cost(plan: Plan) -> dict[str, dict[str, int]]:
    """Bit operations of one sampler step for one image, and bytes of the weights."""
    args, kwargs = record_call(plan.pipeline, plan.prompts.captions[0], plan.sampling)
    sizes = parameter_bytes(plan.pipeline.unet), state_bytes(plan.quantized)
    cost = {}
    for name, unet, n_bytes in zip(
        ("full_precision", "quantized"), (plan.pipeline.unet, plan.quantized), sizes, strict=True
    ):
        operations = count_operations(unet, args, kwargs)
        cost[name] = {
            "bops": operations.bops,
            "layer_bops": operations.layer_bops,
            "attention_bops": operations.attention_bops,
            "bytes": n_bytes,
        }
    return cost


def _sample_size_notes(features: Tensor, references: Tensor | None) -> Iterator[str]:
    """Say so where there are too few images for FID."""
    n, dimensions = features.shape
    if n < 2:
        yield "fid: needs at least two images"
    elif n <= dimensions:
        yield (
            f"FID rests on {n} images for {dimensions} features: the covariance is singular, "
            "so compare only with runs of as many images"
        )
    if references is not None and len(references) <= dimensions and n >= 2:
        yield f"FID rests on {len(references)} real images for {dimensions} features"


def _finite(values: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """JSON knows no infinity: None instead, and a note that says so."""
    result = dict(values)
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            result[name] = None
            notes.append(f"{name}: {value}, since the outputs compared are equal")
        elif isinstance(value, list):
            result[name] = [v if math.isfinite(v) else None for v in value]
    return result
