"""The seal changes with whatever a quantized model computes, and with nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dgq.storage.fingerprint import network_sha256, tensors_sha256
from dgq.storage.seal import defaults_of, seal_of, tensor_sha256

Config = dict[str, Any]
Tensors = dict[str, Tensor]


class Network:
    """Stands in for the class that a configuration is for."""

    def __init__(self, width: int, depth: int = 2, kinds: tuple[str, ...] = ("a",)) -> None:
        raise NotImplementedError


def config() -> Config:
    return {"width": 4, "depth": 3, "quantization_config": {"bits": 4, "sha256": "old"}}


def tensors() -> Tensors:
    return {"a": torch.arange(6, dtype=torch.int16).view(2, 3), "b": torch.ones(1)}


def seal(config: Config, tensors: Tensors) -> str:
    hashes = {name: tensor_sha256(name, tensor) for name, tensor in tensors.items()}
    return seal_of(config, hashes, defaults_of(Network))


Change = Callable[[Config, Tensors], object]

SAME: dict[str, Change] = {
    "order of tensors": lambda c, t: t.update(a=t.pop("a")),
    "order of settings": lambda c, t: c.update(width=c.pop("width")),
    "layout in memory": lambda c, t: t.update(a=t["a"].T.contiguous().T),
    "an earlier seal": lambda c, t: c["quantization_config"].update(sha256="new"),
    "no seal": lambda c, t: c["quantization_config"].pop("sha256"),
    "a private note": lambda c, t: c.update(_name_or_path="here"),
    "a default": lambda c, t: c.update(kinds=["a"]),
}
OTHER: dict[str, Change] = {
    "a value": lambda c, t: t["a"].view(-1)[5].add_(1),
    "a dtype": lambda c, t: t.update(a=t["a"].view(torch.float16)),
    "a shape": lambda c, t: t.update(a=t["a"].view(3, 2)),
    "a name": lambda c, t: t.update(c=t.pop("b")),
    "swapped names": lambda c, t: t.update(a=t["b"], b=t["a"]),
    "a tensor less": lambda c, t: t.pop("b"),
    "a tensor more": lambda c, t: t.update(c=torch.ones(1)),
    "a setting": lambda c, t: c.update(width=5),
    "no default any more": lambda c, t: c.update(kinds=["b"]),
    "a setting less": lambda c, t: c.pop("depth"),
    "a setting more": lambda c, t: c.update(height=None),
    "a setting of the quantization": lambda c, t: c["quantization_config"].update(bits=5),
}


@pytest.mark.parametrize("name", [*SAME, *OTHER])
def test_the_seal_is_that_of_what_is_computed(name: str) -> None:
    changed = config(), tensors()
    (SAME | OTHER)[name](*changed)
    assert (seal(*changed) == seal(config(), tensors())) == (name in SAME)


def test_hashes_of_several_tensors_are_those_of_names_values_and_text() -> None:
    network = nn.Linear(2, 1)
    state = network.state_dict()
    assert network_sha256(network) == network_sha256(network)
    found = {tensors_sha256(state), tensors_sha256(state, {"a": "b"}), tensors_sha256({})}
    assert tensors_sha256(dict(reversed(state.items()))) in found
    with torch.no_grad():
        before = network_sha256(network)
        network.bias += 1
    assert network_sha256(network) != before
    assert len(found | {tensors_sha256(network.state_dict())}) == 4
