"""Kernels that are launched repeatedly with the same shapes, at little cost.

Triton's ``kernel[grid](...)`` examines every argument to find the matching compiled kernel, which
takes a CPU longer than most of our kernels take a GPU.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

ALIGNMENT = 16
"""In bytes: alignment that kernels are compiled for, and that the copy engine needs."""

KEPT = 1024
"""Launches of a kind that are kept, the latest ones; a UNet has some dozens per image size."""


class Boxes(NamedTuple):
    """A contiguous tensor as the copy engine sees it.

    Args:
        shape: shape that it is viewed in.
        box: shape of the part that is copied at a time.
    """

    shape: tuple[int, ...]
    box: tuple[int, ...]

    def strides(self) -> list[int]:
        """Number of elements between neighbours along each dimension."""
        strides = [1]
        for size in reversed(self.shape[1:]):
            strides.append(strides[-1] * size)
        return strides[::-1]


class Launch:
    """A kernel with all its arguments other than tensors.

    Besides these, Triton compiles for the tensors' dtypes and for whether their addresses are
    multiples of 16. Kernels for such addresses are kept here; with others Triton searches at each
    launch.

    Args:
        kernel: a Triton kernel.
        grid: programs along up to three axes.
        numbers: numbers that the kernel takes after its tensors, in its order.
        boxes: how the copy engine sees the first tensors.
        options: Triton's options: warps, stages.
    """

    def __init__(
        self,
        kernel: Any,
        grid: Sequence[int],
        numbers: Sequence[float | None],
        boxes: Sequence[Boxes] = (),
        **options: int,
    ) -> None:
        self.kernel, self.options = kernel, options
        self.grid = (*grid, 1, 1)[:3]
        self.numbers = tuple(numbers)
        self.views = [([*seen.shape], seen.strides(), [*seen.box]) for seen in boxes]
        self._compiled: dict[tuple[Any, ...] | None, Callable[..., None]] = {}

    def __call__(self, first: Tensor, *others: Tensor | None) -> None:
        """Launch the kernel; the first tensor is on the current device, boxes are contiguous."""
        tensors = (first, *others)
        kinds: list[Any] = [first.device]
        addresses = 0
        for tensor in tensors:
            if tensor is None:
                kinds.append(None)
            else:
                kinds.append(tensor.dtype)
                addresses |= tensor.data_ptr()
        key = tuple(kinds) if addresses % ALIGNMENT == 0 else None
        run = self._compiled.get(key)
        if run is not None:
            run(*self._described(tensors, Checked), *self.numbers)
            return
        described = self._described(tensors, TensorDescriptor)
        compiled = self.kernel[self.grid](*described, *self.numbers, **self.options)
        if key is not None and compiled is not None:  # None from Triton's interpreter
            self._compiled[key] = compiled[self.grid]

    def _described(
        self, tensors: tuple[Tensor | None, ...], kind: type[TensorDescriptor]
    ) -> tuple[Any, ...]:
        if not self.views:
            return tensors
        boxes = [
            None if tensor is None else kind(tensor, *view)
            for tensor, view in zip(tensors, self.views, strict=False)
        ]
        return (*boxes, *tensors[len(boxes) :])


class Checked(TensorDescriptor):
    """A descriptor whose shape, box and alignment were checked when the kernel was compiled."""

    def __post_init__(self) -> None:
        """Skip the checks, which would take as long as the rest of a launch."""
