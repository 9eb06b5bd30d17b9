"""The record of an evaluation: everything needed to repeat it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dgq.inference.execution import Execution
from dgq.storage.files import sha256_of
from evaluation.features.extractors import Extractors
from evaluation.features.references import renders_of
from evaluation.images.files import list_images
from evaluation.images.store import READERS, fingerprint
from evaluation.inputs import Inputs
from evaluation.metrics.metric import Metric
from evaluation.metrics.registry import all_metrics
from evaluation.models import Model, as_json
from evaluation.prompts import Prompts
from evaluation.protocol import Protocol
from evaluation.versions import DRAWING, MEASURING, versions_of
from evaluation.words import listed


def describe(inputs: Inputs) -> dict[str, Any]:
    """The protocol as executed, for ``metrics.json``."""
    protocol, comparison, prompts = inputs.protocol, inputs.comparison, inputs.prompts
    settings = asdict(protocol)
    del settings["inception"]  # a path; the network's name has the hash of the file
    if protocol.metrics is None:
        del settings["metrics"]  # all of them
    return as_json(
        {
            "preset": inputs.settings.protocol_name,
            **settings,
            **asdict(comparison.generation),
            "prompts": prompts.source,
            "prompts_fingerprint": fingerprint({"prompts": list(prompts.captions)}),
            "num_images": len(prompts.captions),
            "clip_images": inputs.n_embedded,
            "references": _references(protocol, prompts, comparison.is_square),
            "references_sha256": _references_hash(protocol.references),
            "sqnr_prompts": inputs.sets[0].n_recorded,
            "batch_size": inputs.batch_size,
            "latency_calls": inputs.settings.latency_calls,
            "compile": inputs.settings.compile,
            **_switches(inputs.metrics),
            "sampler": type(comparison.pipeline.scheduler).__name__,
            "pipeline": comparison.source,
            "pipeline_sha256": comparison.pipeline_sha256,
            "extractors": _networks(inputs.metrics, inputs.extractors),
            "device": torch.device(comparison.device).type,
        }
    )


def describe_model(model: Model) -> dict[str, Any]:
    """The description of one model, for ``metrics.json``."""
    quantization = None if model.manifest is None else as_json(asdict(model.manifest.quantization))
    return {
        "name": model.name,
        "checkpoint": None if model.run is None else str(model.run),
        "checkpoint_sha256": model.sha256,
        "quantization": quantization,
        "execution": None if model.execution is None else as_json(asdict(model.execution)),
    }


def describe_versions() -> dict[str, str]:
    """Versions of the packages that numbers depend on."""
    return versions_of((*DRAWING, *MEASURING))


def identity(
    protocol: dict[str, Any], models: list[dict[str, Any]], versions: dict[str, str]
) -> str:
    """Values that two results must share to belong to the same evaluation."""
    hashes = [model["checkpoint_sha256"] for model in models]
    runs = [_arithmetic(model.get("execution")) for model in models]
    shared = {"protocol": protocol, "models": hashes, "execution": runs, "versions": versions}
    return fingerprint(shared)


def _arithmetic(execution: dict[str, Any] | None) -> str | None:
    """The parts of an execution that affect the numbers."""
    return None if execution is None else Execution(**execution).arithmetic


def _switches(metrics: Sequence[Metric]) -> dict[str, bool]:
    """Settings that request a metric, with their effective values."""
    measured = {type(metric) for metric in metrics}
    return {kind.switch: kind in measured for kind in all_metrics() if kind.switch is not None}


def _networks(metrics: Sequence[Metric], extractors: Extractors) -> dict[str, str | None]:
    """The network behind each kind of features, by the names of the metrics that need them."""
    networks = {}
    for feature, network in extractors.names.items():
        names = dict.fromkeys(m.name.lower() for m in metrics if feature in m.features)
        if names:
            networks[listed(list(names))] = network
    return networks


def _references(protocol: Protocol, prompts: Prompts, is_square: bool) -> str | None:
    """Description of the references that FID compares with."""
    if protocol.references is not None:
        return protocol.references.name
    if prompts.benchmark is None or not is_square:
        return None
    return renders_of(prompts.benchmark)


def _references_hash(path: Path | None) -> str | None:
    """Hash of the statistics' content, or of the names and contents of all images in a folder."""
    if path is None or path.is_file():
        return None if path is None else sha256_of(path)
    files = list_images(path)
    with ThreadPoolExecutor(READERS) as pool:
        return fingerprint(
            dict(zip((f.name for f in files), pool.map(sha256_of, files), strict=True))
        )
