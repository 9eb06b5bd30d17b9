"""FID and the oracle along a training: images of its snapshots, judged as an evaluation does."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from rich.progress import Progress

import scenes
from benchmarks.measuring_clip.points import Point
from benchmarks.measuring_clip.renders import BATCH_SIZE, Advance
from benchmarks.measuring_clip.snapshots import load_in_turn_
from dgq.pipelines.loading import load_pipeline
from dgq.storage.files import read_tensors, write_tensors
from dgq.storage.fingerprint import network_sha256
from evaluation.batching import batched
from evaluation.estimate import of_ratios
from evaluation.extractors import Extractors
from evaluation.images import to_images, to_tensor
from evaluation.oracle import ALL, read_scenes
from evaluation.prompts import load_prompts
from evaluation.quality import judge_alone
from evaluation.references import References, render_references
from evaluation.store import fingerprint
from scenes.training.measure import generate


def measure_training(
    extractors: Extractors,
    snapshots: Mapping[int, Path],
    final_step: int,
    options: argparse.Namespace,
    progress: Progress,
) -> list[Point]:
    """Renders of the captions, then the images of each snapshot and of the pipeline itself."""
    pipeline = load_pipeline(str(options.pipeline))
    prompts = load_prompts(None, options.num_images, options.seed)
    captions = prompts.captions
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    references = render_references(prompts, options.seed, size, extractors)
    assert references is not None
    n_images = (len(snapshots) + 1) * options.num_images
    task = progress.add_task("images of snapshots", total=n_images)
    renders = to_images(scenes.render(captions, size, options.seed))
    points = [judge(None, renders, captions, extractors, references)]
    for step in load_in_turn_(pipeline.unet, snapshots, final_step):
        images = images_of(pipeline, captions, options, lambda n: progress.advance(task, n))
        points.append(judge(step, images, captions, extractors, references))
    return points


def images_of(
    pipeline: DiffusionPipeline,
    captions: Sequence[str],
    options: argparse.Namespace,
    advance: Advance,
) -> list[Image.Image]:
    """Images of captions, drawn unless this pipeline has drawn them before."""
    settings = {
        "pipeline": {
            name: network_sha256(part)
            for name, part in pipeline.components.items()
            if isinstance(part, torch.nn.Module)
        },
        "sampling": [scenes.GUIDANCE_SCALE, scenes.NUM_INFERENCE_STEPS, options.seed],
        "captions": list(captions),
    }
    path = options.images / f"{fingerprint(settings)}.safetensors"
    if path.is_file():
        advance(len(captions))
        return to_images(read_tensors(path)[0]["images"] / 255)
    images = draw(pipeline, captions, options.seed, advance)
    codes = (to_tensor(images) * 255).round().to(torch.uint8)
    write_tensors(path, {"images": codes}, {})
    return images


def draw(
    pipeline: DiffusionPipeline, captions: Sequence[str], seed: int, advance: Advance
) -> list[Image.Image]:
    """Images of captions with the embedded model's usual sampling, in batches."""
    guidance_scale, steps = scenes.GUIDANCE_SCALE, scenes.NUM_INFERENCE_STEPS
    images = []
    for number, batch in enumerate(batched(captions, BATCH_SIZE)):
        drawn = generate(pipeline, batch, guidance_scale, steps, seed + number, show_progress=False)
        images += to_images(drawn)
        advance(len(batch))
    return images


def judge(
    step: int | None,
    images: list[Image.Image],
    captions: Sequence[str],
    extractors: Extractors,
    references: References,
) -> Point:
    """Measure images as an evaluation does."""
    assert extractors.clip is not None
    seen = extractors.look(batched(images, BATCH_SIZE), len(images))
    quality = judge_alone(seen, references, extractors.clip.texts(captions), 1)
    read = read_scenes(batched(images, BATCH_SIZE), captions)
    faultless = {ALL: read.pop(ALL)}
    score, mean, all_ = (
        of_ratios([ratios], None) for ratios in (quality.ratios["clip_score"], read, faultless)
    )
    return Point(step, quality.values["fid"], score, mean, all_)
