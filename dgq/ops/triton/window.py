"""The window of a convolution."""

from collections.abc import Sequence
from typing import NamedTuple


class Window(NamedTuple):
    """The part of an image that an output pixel reads."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(
        cls,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> "Window":
        """A window from an operator's lists, which are not hashable."""
        return cls(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), groups)

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output."""
        return self._along(0, height), self._along(1, width)

    def _along(self, axis: int, size: int) -> int:
        seen = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (size + 2 * self.padding[axis] - seen) // self.stride[axis] + 1

    @property
    def is_point(self) -> bool:
        """Whether each output pixel reads one input pixel, as in a linear layer."""
        return {*self.kernel, *self.stride} == {1}
