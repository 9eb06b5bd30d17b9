"""How to make and measure a model again: a configuration and commands, without local paths."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from dgq.hub.evidence import Evidence
from dgq.hub.names import without_paths
from dgq.storage.described_settings import described
from dgq.storage.files import exists
from dgq.storage.manifest import Manifest

PRESETS = ("paper", "quick", "scenes")
"""Names of protocols in the repository."""

MEASURED = (
    *("num_images", "seeds", "num_inference_steps", "guidance_scale", "height", "width"),
    *("jpeg_quality", "measured_size", "features", "clip", "clip_images"),
    *("inception_score_splits", "sqnr_prompts", "metrics", "execution", "batch_size"),
)
"""Options of ``evaluate.py`` that an evaluation records with the values that it used."""

DRAWN = re.compile(r"captions of .*, test split, seed \d+")
"""How an evaluation names prompts that it draws itself."""

DATA = ("n_prompts", "n_samples", "n_held_out", "batch_size", "micro_batch_size", "seed")
"""Settings of the samples that affect what is learned."""


def recipe_yaml(manifest: Manifest, config: Mapping[str, Any]) -> str:
    """The YAML with which ``train.py fit --config`` calibrates such a model again.

    Args:
        manifest: manifest of the model.
        config: configuration of its calibration, as far as it is known.
    """
    model, data = (section(config, name) for name in ("model", "data"))
    quantization = manifest.quantization
    as_it_is = {"class_path": "Custom", "init_args": {"quantization": described(quantization)}}
    made: dict[str, Any] = {"model": {"recipe": model.get("recipe", as_it_is)}}
    made["data"] = {"generation": asdict(manifest.generation)}
    made["data"] |= {name: data[name] for name in DATA if name in data}
    precision = section(config, "trainer").get("precision")
    if precision is not None:
        made["trainer"] = {"precision": precision}
    return str(yaml.safe_dump(made, sort_keys=False))


def commands(evidence: Evidence, pipeline: str, name: str) -> list[str]:
    """The commands that calibrate a model and measure it.

    Args:
        evidence: measurements of the model.
        pipeline: pipeline that it is made from.
        name: name of the run's folder.
    """
    fit = f"python train.py fit --config recipe.yaml --pipeline {pipeline} --run outputs/{name}"
    captions = section(evidence.config, "data").get("captions")
    if captions is not None:
        fit += f" --data.captions {last_part(str(captions))}"
    if evidence.protocol is None:
        return [fit]
    options = " ".join(evaluation_options(evidence.protocol))
    return [fit, f"python evaluate.py --ckpt outputs/{name} {options}"]


def evaluation_options(protocol: Mapping[str, Any]) -> Iterator[str]:
    """The options of ``evaluate.py`` that repeat an evaluation, each with its value.

    All are written out: which of them a preset of that name contains may change.

    Args:
        protocol: protocol as the evaluation recorded it.
    """
    if protocol.get("preset") in PRESETS:
        yield f"--protocol {protocol['preset']}"
    if not DRAWN.fullmatch(str(protocol["prompts"])):
        yield f"--prompts {shlex.quote(last_part(str(protocol['prompts'])))}"
    if protocol.get("references_sha256") is not None:
        yield f"--references {shlex.quote(last_part(str(protocol['references'])))}"
    for name in MEASURED:
        value = protocol.get(name)
        if value is not None:
            values = value if isinstance(value, list) else [value]
            text = " ".join(shlex.quote(without_paths(str(each))) for each in values)
            yield f"--{name.replace('_', '-')} {text}"


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a configuration; empty if it is missing."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def last_part(source: str) -> str:
    """A file's name without its folders; a hub data set unchanged."""
    is_path = exists(Path(source)) or bool(Path(source).suffix)
    return Path(source).name if is_path else without_paths(source)
