"""Rows out of micro-batches equal rows of everything concatenated."""

import torch

from dgq.streams.micro_batches import TargetInput, gather_inputs, pick_rows, places_of


def test_rows_equal_those_of_the_concatenation_across_uneven_parts() -> None:
    parts = [torch.randn(n, 3) for n in (4, 1, 3)]
    rows = torch.tensor([7, 0, 4, 4, 3, 5])
    assert torch.equal(pick_rows(parts, places_of(rows, [4, 1, 3])), torch.cat(parts)[rows])


def test_arguments_are_gathered_wherever_they_are_tensors() -> None:
    inputs = [
        TargetInput(
            (torch.randn(n, 2), None, (torch.randn(n, 4), [torch.randn(n, 1)])),
            {"temb": torch.randn(n, 5), "scale": 1.5, "residuals": [torch.randn(n, 3)] * 2},
            steps,
        )
        for n, steps in ((2, torch.tensor([0, 1])), (3, torch.tensor([2, 3, 4])))
    ]
    rows = torch.tensor([4, 1])
    found = gather_inputs(inputs, rows)
    assert torch.equal(found.args[0], torch.cat([i.args[0] for i in inputs])[rows])
    assert found.args[1] is None
    text, (image,) = found.args[2]
    assert torch.equal(text, torch.cat([i.args[2][0] for i in inputs])[rows])
    assert torch.equal(image, torch.cat([i.args[2][1][0] for i in inputs])[rows])
    assert torch.equal(found.kwargs["temb"], torch.cat([i.kwargs["temb"] for i in inputs])[rows])
    assert found.kwargs["scale"] == 1.5
    residuals = torch.cat([i.kwargs["residuals"][0] for i in inputs])[rows]
    assert len(found.kwargs["residuals"]) == 2
    assert all(torch.equal(part, residuals) for part in found.kwargs["residuals"])
    assert found.step.tolist() == [4, 1]


def test_one_micro_batch_is_enough() -> None:
    alone = TargetInput((torch.randn(3, 2),), {"temb": torch.randn(3, 5)}, torch.arange(3))
    found = gather_inputs([alone], torch.tensor([2, 0]))
    assert torch.equal(found.args[0], alone.args[0][[2, 0]])
    assert torch.equal(found.kwargs["temb"], alone.kwargs["temb"][[2, 0]])
    assert found.step.tolist() == [2, 0]
