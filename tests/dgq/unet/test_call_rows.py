"""Arguments of recorded calls, wherever they are nested."""

import torch

from dgq.unet.call_rows import combined, of_rows, to_device


def test_nested_arguments_are_moved_and_the_rest_left() -> None:
    given = {"a": torch.ones(1), "b": {"c": torch.ones(1)}, "d": 3, "e": [torch.ones(1)]}
    moved = to_device(given, torch.device("meta"))
    assert moved["a"].device.type == moved["b"]["c"].device.type == "meta"
    assert moved["e"][0].device.type == "meta"
    assert moved["d"] == 3


def test_rows_that_were_parted_are_combined_to_the_call_again() -> None:
    def rows(n: int) -> torch.Tensor:
        return torch.arange(4.0 * n).view(4, n)

    call = {
        "sample": rows(3),
        "nested": {"a": rows(1), "list": [rows(2), (rows(5),)]},
        "scale": 0.5,
    }
    parts = [of_rows(call, slice(first, None, 2)) for first in range(2)]
    assert [part["sample"].tolist() for part in parts] == [
        [[0, 1, 2], [6, 7, 8]],
        [[3, 4, 5], [9, 10, 11]],
    ]
    again = combined(parts)
    order = [0, 2, 1, 3]
    assert torch.equal(again["sample"], rows(3)[order])
    assert torch.equal(again["nested"]["a"], rows(1)[order])
    first, (second,) = again["nested"]["list"]
    assert torch.equal(first, rows(2)[order])
    assert torch.equal(second, rows(5)[order])
    assert (again["scale"], again["return_dict"]) == (0.5, False)
    assert torch.equal(combined(parts[:1])["sample"], parts[0]["sample"])
