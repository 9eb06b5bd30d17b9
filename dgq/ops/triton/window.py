"""The window of a convolution."""

from typing import NamedTuple


class Window(NamedTuple):
    """What of an image a pixel of the output sees."""

    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output."""
        sizes = (height, width), self.kernel, self.stride, self.padding, self.dilation
        down, right = (
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(*sizes, strict=True)
        )
        return down, right

    @property
    def is_point(self) -> bool:
        """Whether each output pixel reads one input pixel, as in a linear layer."""
        return {*self.kernel, *self.stride} == {1}
