"""One process alone, and arguments that follow the device."""

import torch

from dgq.calibration.runtime import Runtime, to_device


def test_nested_arguments_are_moved_and_the_rest_left() -> None:
    given = {"a": torch.ones(1), "b": {"c": torch.ones(1)}, "d": 3, "e": [torch.ones(1)]}
    moved = to_device(given, torch.device("meta"))
    assert moved["a"].device.type == moved["b"]["c"].device.type == "meta"
    assert moved["e"][0].device.type == "meta"
    assert moved["d"] == 3


def test_one_process_shares_with_nobody() -> None:
    x = torch.randn(3)
    for reduction in ("sum", "min", "max"):
        assert torch.equal(Runtime(torch.device("cpu")).reduce(x, reduction), x)  # type: ignore[arg-type]
