"""The seal of a quantized model: one hash of its description and all of its tensors.

It is part of the description. It does not depend on sharding, on the order of tensors, on the
layout of the JSON, or on notes that diffusers adds.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dgq.storage.fingerprint import add_tensor
from dgq.storage.manifest import QUANTIZATION

SEAL = "sha256"
"""Its name in the description of the quantization."""


def tensor_sha256(name: str, tensor: Tensor) -> str:
    """Hexadecimal SHA-256 of one tensor: name, dtype, shape, values."""
    digest = hashlib.sha256()
    add_tensor(digest, name, tensor)
    return digest.hexdigest()


def seal_of(
    config: Mapping[str, Any], tensors: Mapping[str, str], defaults: Mapping[str, Any]
) -> str:
    """The seal.

    Args:
        config: content of ``config.json``.
        tensors: hash of each tensor, by name.
        defaults: defaults of the arguments that the configuration is for.
    """
    described = json.dumps(essence(config, defaults), sort_keys=True)
    listed = json.dumps(sorted(tensors.items()))
    return hashlib.sha256(f"{described}\n{listed}".encode()).hexdigest()


def essence(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a configuration without private notes and default values.

    Later versions of diffusers add arguments whose defaults change nothing.
    """
    plain = json.loads(json.dumps({k: v for k, v in config.items() if not k.startswith("_")}))
    plain[QUANTIZATION] = {k: v for k, v in plain[QUANTIZATION].items() if k != SEAL}
    usual = json.loads(json.dumps(defaults, default=str))
    return {k: v for k, v in plain.items() if k not in usual or usual[k] != v}


def defaults_of(network: type) -> dict[str, Any]:
    """Defaults of a network's arguments."""
    parameters = inspect.signature(network).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
