"""Arguments of recorded calls, wherever they are nested."""

import torch

from dgq.unet.call_rows import to_device


def test_nested_arguments_are_moved_and_the_rest_left() -> None:
    given = {"a": torch.ones(1), "b": {"c": torch.ones(1)}, "d": 3, "e": [torch.ones(1)]}
    moved = to_device(given, torch.device("meta"))
    assert moved["a"].device.type == moved["b"]["c"].device.type == "meta"
    assert moved["e"][0].device.type == "meta"
    assert moved["d"] == 3
