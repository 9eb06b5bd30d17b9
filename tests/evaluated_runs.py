"""Models with the results of an evaluation beside them, from a machine with places of its own."""

import json
from pathlib import Path
from typing import Any

from dgq.storage.checkpoint import GenerationSettings, Manifest, save_quantized
from tests.quantized_models import TIMESTEPS, Calibrated

SECRET = "/home/somebody/secret"
BASE = "owner/base-model"
ESTIMATE = {"std": None, "seeds": [1.0], "difference": None}


def named(model: Calibrated, folder: Path, pipeline: str) -> Path:
    """The model in a folder of its own, as made from some pipeline."""
    generation = GenerationSettings(3, 3.0, 16, 16)
    config = dict(model.unet.config) | {"_name_or_path": SECRET}
    rest = (model.settings, generation, TIMESTEPS, (8, 8))
    save_quantized(model.unet, folder, Manifest(pipeline, config, *rest))
    return folder


def evaluation(sha256: str, n_images: int = 100) -> dict[str, Any]:
    """Results as an evaluation writes them, with places of this machine wherever they may be."""
    clip = {"value": 31.25, "interval": [30.5, 32.0], **ESTIMATE}
    fid = {"value": 12.35, "interval": None, **ESTIMATE}
    metrics = {"clip_score": clip, "fid": fid, "psnr": None}
    full = {"checkpoint_sha256": None, "metrics": metrics, "sqnr": None, "cost": {"bops": 4e9}}
    own = {
        **full,
        "checkpoint": f"{SECRET}/run",
        "checkpoint_sha256": sha256,
        "metrics": metrics | {"psnr": fid},
        "sqnr": {"plain": {"mean_db": 27.5}},
        "execution": {"integer_layers": 24, "dtype": "float32"},
    }
    protocol = {
        "preset": "quick",
        "num_images": n_images,
        "num_inference_steps": 3,
        "guidance_scale": 3.0,
        "sampler": "PNDMScheduler",
        "seeds": [0, 1],
        "device": "cpu",
        "prompts": f"{SECRET}/captions.json",
        "references": f"{SECRET}/val2014",
        "references_sha256": "ab12",
        "height": None,
        "features": "clip",
        "clip": f"{SECRET}/clip",
        "sqnr_prompts": 8,
        "extractors": {"fid and kid": f"pooled features of {SECRET}/clip", "clip score": None},
        "pipeline": SECRET,
    }
    return {"protocol": protocol, "models": [full, own], "command": f"evaluate.py {SECRET}"}


def write_evaluation(run: Path, name: str, content: object) -> None:
    """Put results into a run."""
    folder = run / "evaluation" / name
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(content))
