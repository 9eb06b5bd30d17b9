"""What the images of one model with one seed show, by themselves and against real images."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio

from evaluation import metrics
from evaluation.batching import batched
from evaluation.estimate import Ratio, mean
from evaluation.extractors import Extractors, Seen
from evaluation.gaussian import Gaussian, fit_gaussian, frechet_distance
from evaluation.images import to_tensor
from evaluation.oracle import ALL, read_prompts
from evaluation.perceptual import ImageReward, Judges
from evaluation.prompts import Prompts
from evaluation.references import References
from evaluation.store import ImageStore

SMALLEST_SSIM = 11
"""Pixels of the window that SSIM looks through."""


@dataclass
class Quality:
    """Metrics of one set of images.

    Args:
        values: metrics that are one number of the whole set, by name.
        ratios: metrics that are means over images, by name; several ratios are averaged.
        notes: what could not be measured, and why.
    """

    values: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, dict[str, Ratio]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def judge_alone(
    seen: Seen, references: References | None, texts: Tensor | None, splits: int
) -> Quality:
    """FID and KID to real images, Inception score, CLIP score.

    Args:
        seen: what the extractors made of them.
        references: real images.
        texts: embeddings of the prompts, [K, p].
        splits: of the Inception score.
    """
    quality = Quality()
    n = len(seen.features)
    if n < 2:
        quality.notes.append("FID and KID: need at least two images")
    elif references is not None:
        quality.values["fid"] = frechet_distance(references.gaussian, fit_gaussian(seen.features))
        if references.features is not None:
            quality.values["kid"] = metrics.kernel_distance(references.features, seen.features)
    if seen.logits is not None and splits <= n:
        quality.values["inception_score"] = metrics.inception_score(seen.logits, splits)
    elif seen.logits is not None:
        quality.notes.append(f"Inception score: {n} images cannot be split into {splits} parts")
    if seen.embeddings is not None and texts is not None:
        scores = metrics.clip_scores(seen.embeddings, texts)
        quality.ratios["clip_score"] = {"": mean(scores.double().numpy())}
    return quality


def judge_contents(
    store: ImageStore, prompts: Prompts, reward: ImageReward | None, batch_size: int
) -> Quality:
    """Oracle and ImageReward: what images show of their prompts."""
    quality = Quality()
    if prompts.benchmark is not None:
        try:
            read = read_prompts(store.measured(batch_size), prompts.captions, prompts.benchmark)
        except ValueError as error:
            quality.notes.append(f"oracle: {error}")
        else:
            attributes = {name: ratio for name, ratio in read.items() if name != ALL}
            quality.ratios["oracle_mean"] = attributes
            quality.ratios["oracle_all"] = {ALL: read[ALL]}
            quality.ratios |= {f"oracle_{name}": {name: r} for name, r in attributes.items()}
    if reward is not None:
        batches = zip(
            batched(prompts.captions, batch_size), store.measured(batch_size), strict=True
        )
        rewards = torch.cat([reward(captions, images) for captions, images in batches])
        quality.ratios["image_reward"] = {"": mean(rewards.double().numpy())}
    return quality


def compare(
    expected: ImageStore,
    actual: ImageStore,
    seen: tuple[Seen, Seen],
    judges: Judges,
    batch_size: int,
) -> Quality:
    """Distances of a model's images to the full-precision ones of the same prompts and seed.

    Args:
        expected: images in full precision.
        actual: images of the quantized model.
        seen: what the extractors made of both.
        judges: with LPIPS, if it is there.
        batch_size: images at once.
    """
    quality = Quality()
    features = [part.features for part in seen]
    if len(features[0]) > 1:
        gaussians: list[Gaussian] = [fit_gaussian(part) for part in features]
        quality.values["fid_to_full_precision"] = frechet_distance(*gaussians)
        quality.values["kid_to_full_precision"] = metrics.paired_kernel_distance(*features)
    psnr = PeakSignalNoiseRatio(data_range=1.0)
    perceived: dict[str, list[Tensor]] = {"ssim": [], "lpips": []}
    for pair in zip(expected.measured(batch_size), actual.measured(batch_size), strict=True):
        a, b = (to_tensor(images) for images in pair)
        psnr.update(b.double(), a.double())
        if min(a.shape[-2:]) >= SMALLEST_SSIM:
            perceived["ssim"].append(metrics.ssim(a, b))
        if judges.lpips is not None:
            perceived["lpips"].append(judges.lpips(a, b))
    quality.values["psnr"] = psnr.compute().item()
    for name, parts in perceived.items():
        if parts:
            quality.ratios[name] = {"": mean(torch.cat(parts).double().numpy())}
    return quality


def texts_of(extractors: Extractors, captions: Sequence[str]) -> Tensor | None:
    """Embeddings of prompts, if there is a CLIP model."""
    return None if extractors.clip is None else extractors.clip.texts(captions)
