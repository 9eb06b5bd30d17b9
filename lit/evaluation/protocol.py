"""What has to be known to repeat an evaluation."""

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lit.evaluation.plan import Plan, run_folder

LIBRARIES = ("torch", "diffusers", "transformers", "torchmetrics")


def describe(plan: Plan) -> dict[str, Any]:
    """The protocol, as it goes into ``metrics.json``."""
    sampling = plan.sampling
    clip = _clip_name(plan)
    return {
        "checkpoint": run_folder(plan.settings.ckpt).resolve().name,
        "checkpoint_sha256": plan.manifest.weights_sha256,
        "quantization": _as_json(asdict(plan.manifest.quantization)),
        "pipeline": plan.source,
        "prompts": plan.prompts.source,
        "references": _references(plan),
        "num_images": len(plan.prompts.captions),
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "height": sampling.height,
        "width": sampling.width,
        "seed": sampling.seed,
        "sampler": type(plan.pipeline.scheduler).__name__,
        "sqnr_prompts": min(plan.settings.sqnr_prompts, len(plan.prompts.captions)),
        "device": plan.pipeline.device.type,
        "extractors": {
            "fid": f"pooled vision features of {clip}",
            "inception_score": f"zero-shot classes of {clip}",
            "clip_score": clip,
        },
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """The same as it will be read back: tuples become lists."""
    result: dict[str, Any] = json.loads(json.dumps(values))
    return result


def _clip_name(plan: Plan) -> str:
    source = plan.settings.clip
    if source is None:
        return "the embedded scenes CLIP"
    return Path(source).name if Path(source).is_dir() else source


def _references(plan: Plan) -> str | None:
    """What FID compares with."""
    if plan.references is not None:
        assert plan.settings.references is not None
        return f"{len(plan.references)} images of {plan.settings.references.name}"
    return "renders of other held-out scenes" if plan.prompts.are_scenes else None
