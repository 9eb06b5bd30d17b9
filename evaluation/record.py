"""What has to be known to repeat an evaluation."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dgq.inference.execution import Execution
from dgq.storage.files import sha256_of
from evaluation.images import list_images
from evaluation.models import Model, as_json
from evaluation.plan import Plan
from evaluation.store import READERS, fingerprint

LIBRARIES = ("torch", "diffusers", "transformers", "torchmetrics", "pillow", "numpy")


def describe(plan: Plan) -> dict[str, Any]:
    """The protocol as it was carried out, for ``metrics.json``."""
    protocol = plan.settings.protocol
    generation = asdict(plan.generation)
    settings = asdict(protocol)
    del settings["inception"]  # a path; the extractor's name has the hash of what is there
    return as_json(
        {
            "preset": plan.settings.protocol_name,
            **settings,
            **generation,
            "prompts": plan.prompts.source,
            "prompts_fingerprint": fingerprint({"prompts": list(plan.prompts.captions)}),
            "num_images": len(plan.prompts.captions),
            "clip_images": len(plan.prompts.captions[: protocol.clip_images]),
            "references": _references(plan),
            "references_sha256": _references_hash(protocol.references),
            "sqnr_prompts": plan.n_recorded,
            "batch_size": plan.batch_size,
            "latency_calls": plan.settings.latency_calls,
            "compile": plan.settings.compile,
            "lpips": plan.judges.lpips is not None,
            "sampler": type(plan.pipeline.scheduler).__name__,
            "pipeline": plan.source,
            "pipeline_sha256": plan.pipeline_sha256,
            "extractors": plan.extractors.names,
            "device": torch.device(plan.device).type,
        }
    )


def describe_model(model: Model) -> dict[str, Any]:
    """One model, for ``metrics.json``."""
    quantization = None if model.manifest is None else as_json(asdict(model.manifest.quantization))
    return {
        "name": model.name,
        "checkpoint": None if model.run is None else str(model.run),
        "checkpoint_sha256": model.sha256,
        "quantization": quantization,
        "execution": None if model.execution is None else as_json(asdict(model.execution)),
    }


def describe_versions() -> dict[str, str]:
    """Versions of the libraries that numbers may depend on."""
    return {name: version(name) for name in LIBRARIES}


def identity(protocol: dict[str, Any], models: list[dict[str, Any]]) -> str:
    """What two results must share to be results of the same evaluation."""
    hashes = [model["checkpoint_sha256"] for model in models]
    runs = [_arithmetic(model.get("execution")) for model in models]
    return fingerprint({"protocol": protocol, "models": hashes, "execution": runs})


def _arithmetic(execution: dict[str, Any] | None) -> str | None:
    """What of an execution decides the numbers."""
    return None if execution is None else Execution(**execution).arithmetic


def _references(plan: Plan) -> str | None:
    """What FID compares with."""
    path = plan.settings.protocol.references
    if path is not None:
        return path.name
    benchmark = plan.prompts.benchmark
    return None if benchmark is None else f"renders of other held-out {benchmark.name}"


def _references_hash(path: Path | None) -> str | None:
    """Of the statistics' content, or of the names and the content of all images in a folder."""
    if path is None or path.is_file():
        return None if path is None else sha256_of(path)
    files = list_images(path)
    with ThreadPoolExecutor(READERS) as pool:
        return fingerprint(
            dict(zip((f.name for f in files), pool.map(sha256_of, files), strict=True))
        )
