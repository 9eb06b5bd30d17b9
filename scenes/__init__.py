"""Captioned scenes: a small world of pictures and captions, and the models trained on it.

`sample_captions` draws captions, `render` draws their pictures, `score` compares any pictures
with captions exactly. `PIPELINE_DIR` is a Stable Diffusion pipeline for this world, `XL_DIR`
one with SDXL's structure, `CLIP_DIR` a CLIP model, all loaded by `from_pretrained`.
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
XL_DIR: Final[Path] = ASSETS_DIR / "xl"
"""Folder for `StableDiffusionXLPipeline.from_pretrained`."""
FEW_STEP_DIR: Final[Path] = ASSETS_DIR / "few-step"
"""Folder of the SDXL pipeline for `FEW_STEPS` steps without guidance (`guidance_scale=0`)."""
CLIP_DIR: Final[Path] = ASSETS_DIR / "clip"
"""Folder for `CLIPModel.from_pretrained` and `CLIPProcessor.from_pretrained`."""

GUIDANCE_SCALE: Final = 2.0
"""The guidance scale that the pipeline was measured with; see the model card."""
NUM_INFERENCE_STEPS: Final = 25
"""The sampler steps that the pipeline was measured with."""
FEW_STEPS: Final = 4
"""The sampler steps of the pipeline in `FEW_STEP_DIR`."""

__all__ = [
    "ASSETS_DIR",
    "ATTRIBUTES",
    "CLIP_DIR",
    "FEW_STEPS",
    "FEW_STEP_DIR",
    "GUIDANCE_SCALE",
    "NUM_INFERENCE_STEPS",
    "PIPELINE_DIR",
    "XL_DIR",
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
