"""Random rows of recorded calls, in batches."""

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.utils.data import IterableDataset

from dgq.calibration.row_batches import row_batches


class RowBatches(IterableDataset[Tensor]):
    """Endless batches of row indices.

    Args:
        n_rows: rows to draw from.
        batch_size: rows in a batch.
        seed: function that gives the seed, called at the first batch: a resumed Trainer makes its
            iterators before it knows the target.
    """

    def __init__(self, n_rows: int, batch_size: int, seed: Callable[[], int]) -> None:
        self.n_rows = n_rows
        self.batch_size = batch_size
        self.seed = seed

    def __iter__(self) -> Iterator[Tensor]:
        yield from row_batches(self.n_rows, self.batch_size, self.seed())
