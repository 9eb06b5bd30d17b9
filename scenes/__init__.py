"""Captioned scenes: a small world of pictures and captions, and the models trained on it.

`sample_captions` draws captions, `render` draws their pictures, `score` compares any pictures
with captions exactly. `PIPELINE_DIR` is a Stable Diffusion pipeline for this world, `CLIP_DIR` a
CLIP model, both loaded by `from_pretrained`.
"""

from pathlib import Path
from typing import Final

from scenes.captions import class_prompts, sample_captions
from scenes.grammar import Item, Scene, describe, is_scene_caption, parse_caption
from scenes.oracle import ATTRIBUTES, OracleScore, score
from scenes.renderer import render

ASSETS_DIR: Final[Path] = Path(__file__).parent.parent / "assets" / "scenes"
PIPELINE_DIR: Final[Path] = ASSETS_DIR / "pipeline"
"""Folder for `StableDiffusionPipeline.from_pretrained`."""
CLIP_DIR: Final[Path] = ASSETS_DIR / "clip"
"""Folder for `CLIPModel.from_pretrained` and `CLIPProcessor.from_pretrained`."""

GUIDANCE_SCALE: Final = 2.0
"""The guidance scale that the pipeline was measured with; see the model card."""
NUM_INFERENCE_STEPS: Final = 25
"""The sampler steps that the pipeline was measured with."""

__all__ = [
    "ASSETS_DIR",
    "ATTRIBUTES",
    "CLIP_DIR",
    "GUIDANCE_SCALE",
    "NUM_INFERENCE_STEPS",
    "PIPELINE_DIR",
    "Item",
    "OracleScore",
    "Scene",
    "class_prompts",
    "describe",
    "is_scene_caption",
    "parse_caption",
    "render",
    "sample_captions",
    "score",
]
