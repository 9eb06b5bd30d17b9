"""What Triton compiled is found again, and only for what it was compiled for."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from triton.tools.tensor_descriptor import TensorDescriptor

from dgq.ops.triton.launch import Boxes, Launch


class Kernel:
    """As Triton's: launches, and returns what it compiled, which launches too."""

    def __init__(self) -> None:
        self.searched: list[tuple[Any, ...]] = []
        self.found: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def search(*arguments: Any, **options: int) -> Any:
            self.searched.append((grid, arguments, options))
            return self.Compiled(self.found)

        return search

    class Compiled:
        def __init__(self, found: list[tuple[Any, ...]]) -> None:
            self.found = found

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *arguments: self.found.append((grid, arguments))


def test_a_second_launch_takes_what_the_first_one_compiled() -> None:
    kernel = Kernel()
    launch = Launch(kernel, (7,), (3, 2.0, None), num_warps=4)
    first, second = torch.zeros(8), torch.ones(8)
    launch(first, None)
    launch(second, None)
    assert kernel.searched == [((7, 1, 1), (first, None, 3, 2.0, None), {"num_warps": 4})]
    ((grid, arguments),) = kernel.found
    assert grid == (7, 1, 1)
    assert arguments[0] is second
    assert arguments[1:] == (None, 3, 2.0, None)


@pytest.mark.parametrize(
    "others",
    [
        (torch.zeros(8, dtype=torch.float64), None),
        (torch.zeros(8), torch.zeros(8)),
        (torch.zeros(8, device="meta"), None),
    ],
    ids=["another type", "another tensor is there", "another device"],
)
def test_other_kinds_of_tensors_are_searched_for(others: tuple[Any, ...]) -> None:
    kernel = Kernel()
    launch = Launch(kernel, (1,), ())
    launch(torch.zeros(8), None)
    launch(*others)
    assert len(kernel.searched) == 2
    assert not kernel.found


def test_addresses_that_kernels_are_not_compiled_for_are_always_searched_for() -> None:
    kernel = Kernel()
    launch = Launch(kernel, (1,), ())
    tensor = torch.zeros(8)
    for given in (tensor, tensor[1:], tensor[1:], tensor):
        launch(given)
    assert len(kernel.searched) == 3
    assert len(kernel.found) == 1


def test_boxes_are_described_as_triton_describes_them() -> None:
    kernel = Kernel()
    launch = Launch(kernel, (1,), (5,), [Boxes((2, 4, 16), (1, 2, 16))] * 2)
    tensor, table = torch.zeros(8, 16), torch.zeros(4)
    for _ in range(2):
        launch(tensor, None, table)
    ((_, searched, _),), ((_, found),) = kernel.searched, kernel.found
    expected = TensorDescriptor.from_tensor(tensor.view(2, 4, 16), [1, 2, 16])
    for described, nothing, *rest in (searched, found):
        assert isinstance(described, TensorDescriptor)
        assert described.base is tensor
        assert nothing is None
        assert described.shape == [*expected.shape]
        assert described.block_shape == [1, 2, 16]
        assert described.strides == [*expected.strides]
        assert rest == [table, 5]


def test_what_the_copy_engine_cannot_load_is_refused() -> None:
    launch = Launch(Kernel(), (1,), (), [Boxes((8,), (8,))])
    with pytest.raises(AssertionError, match="aligned"):
        launch(torch.zeros(9)[1:])
