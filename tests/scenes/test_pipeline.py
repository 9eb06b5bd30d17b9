"""The shipped weights load with stock libraries and do what the model card says."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, CLIPProcessor

from scenes import (
    ASSETS_DIR,
    CLIP_DIR,
    FEW_STEP_DIR,
    FEW_STEPS,
    GUIDANCE_SCALE,
    NUM_INFERENCE_STEPS,
    PIPELINE_DIR,
    XL_DIR,
    class_prompts,
    parse_caption,
    render,
    sample_captions,
    score,
)
from scenes.training.autoencoder import reconstruct
from scenes.training.measure import generate, load
from scenes.vocabulary import words


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(PIPELINE_DIR)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_files_are_small_and_safe() -> None:
    files = [path for path in ASSETS_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") <= 50e6
    suffixes = {".safetensors", ".json", ".jsonl", ".txt", ".md", ".png"}
    assert {path.suffix for path in files} <= suffixes
    for folder in (XL_DIR, FEW_STEP_DIR):
        assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= 25e6


def test_pictures_follow_unseen_captions(pipeline: StableDiffusionPipeline) -> None:
    captions = sample_captions(16, 0, "test")
    images = generate(pipeline, captions, GUIDANCE_SCALE, NUM_INFERENCE_STEPS, seed=0)
    assert images.shape == (16, 3, 32, 32)
    assert score(images, captions).summary()["mean"] >= 0.85


@pytest.mark.parametrize(
    ("folder", "steps", "guidance_scale"),
    [(XL_DIR, NUM_INFERENCE_STEPS, GUIDANCE_SCALE), (FEW_STEP_DIR, FEW_STEPS, 0.0)],
)
def test_the_sibling_follows_unseen_captions_too(
    folder: Path, steps: int, guidance_scale: float
) -> None:
    captions = sample_captions(16, 0, "test")
    images = generate(load(folder, "cpu"), captions, guidance_scale, steps, seed=0)
    assert score(images, captions).summary()["mean"] >= 0.85


def test_autoencoder_keeps_the_attributes(pipeline: StableDiffusionPipeline) -> None:
    captions = sample_captions(100, 0, "test")
    decoded = reconstruct(pipeline.vae, render(captions, 32, 0))
    assert score(decoded, captions).summary()["all"] >= 0.9


def test_words_are_tokens_and_ends_are_found(pipeline: StableDiffusionPipeline) -> None:
    tokenizer = pipeline.tokenizer
    assert all(len(tokenizer(word)["input_ids"]) == 3 for word in words())
    assert pipeline.text_encoder.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.model_max_length == 77


def test_everything_loads_in_single_precision(pipeline: StableDiffusionPipeline) -> None:
    for model in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert model.dtype == torch.float32
        assert not model.training


def test_clip_matches_pictures_and_captions() -> None:
    model, processor = CLIPModel.from_pretrained(CLIP_DIR), CLIPProcessor.from_pretrained(CLIP_DIR)
    captions = sample_captions(64, 0, "test")
    pictures = list((render(captions, 32, 0) * 255).byte())
    inputs = processor(
        text=captions, images=pictures, return_tensors="pt", padding="max_length", max_length=77
    )
    with torch.no_grad():
        logits = model(**inputs).logits_per_image
    assert (logits.argmax(1) == torch.arange(64)).float().mean() >= 0.9


def test_clip_tells_classes_apart() -> None:
    model, processor = CLIPModel.from_pretrained(CLIP_DIR), CLIPProcessor.from_pretrained(CLIP_DIR)
    prompts = class_prompts()
    pictures = list((render(prompts, 32, 1) * 255).byte())
    inputs = processor(
        text=prompts, images=pictures, return_tensors="pt", padding="max_length", max_length=77
    )
    with torch.no_grad():
        best = model(**inputs).logits_per_image.argmax(1).tolist()
    found = [parse_caption(prompts[i]).items[0].colour for i in best]
    wanted = [parse_caption(prompt).items[0].colour for prompt in prompts]
    assert sum(a == b for a, b in zip(found, wanted, strict=True)) >= 44
    assert sum(i == j for i, j in enumerate(best)) >= 30
