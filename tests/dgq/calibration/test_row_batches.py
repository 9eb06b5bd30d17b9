"""Batches of rows: every row before any is drawn again, in an order of the target's own."""

from itertools import islice

import pytest
import torch

from dgq.calibration.row_batches import row_batches, seed_of_target


def rows_of(n_rows: int, batch_size: int, n_batches: int, seed: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in islice(row_batches(n_rows, batch_size, seed), n_batches)]


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "size", "per_pass"),
    [(12, 4, 4, 3), (13, 4, 4, 3), (15, 4, 4, 3), (3, 4, 3, 1), (4, 4, 4, 1), (5, 1, 1, 5)],
)
def test_a_pass_draws_each_row_once_at_most_in_full_batches(
    n_rows: int, batch_size: int, size: int, per_pass: int
) -> None:
    batches = rows_of(n_rows, batch_size, 20 * per_pass)
    assert all(len(batch) == size for batch in batches)
    passes = [batches[first : first + per_pass] for first in range(0, len(batches), per_pass)]
    for each in passes:
        drawn = [row for batch in each for row in batch]
        assert len({*drawn}) == len(drawn) == size * per_pass
    assert {row for batch in batches for row in batch} == {*range(n_rows)}, "none is left out"
    if n_rows > 4:
        assert any(each != passes[0] for each in passes), "each pass has an order of its own"


def test_batches_are_those_of_their_seed() -> None:
    assert rows_of(32, 8, 6, 3) == rows_of(32, 8, 6, 3)
    assert rows_of(32, 8, 6, 3) != rows_of(32, 8, 6, 4)
    permutation = torch.randperm(32, generator=torch.Generator().manual_seed(3))
    assert rows_of(32, 8, 4, 3) == permutation.view(4, 8).tolist()


def test_every_seed_target_and_process_has_batches_of_its_own() -> None:
    seeds = {
        seed_of_target(seed, target, rank)
        for seed in (0, 1, 2)
        for target in range(200)
        for rank in range(16)
    }
    assert len(seeds) == 3 * 200 * 16
    assert seed_of_target(0, 7) == seed_of_target(0, 7, rank=0) == 7
