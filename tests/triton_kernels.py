"""Triton's kernels for tests: on this machine's GPU; conftest lets a CPU interpret them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

from dgq.inference.products.gpu import GpuProducts  # noqa: E402
from dgq.ops import gpu, triton  # noqa: E402
from dgq.ops.triton import Tile  # noqa: E402

SMALL = Tile(32, 32, 32)


class ProductsHere(GpuProducts):
    """A GPU's products on tensors of a CPU, where operators compute by their reference."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    def obstacle(self) -> None:
        """None: references run anywhere."""

    def features(self) -> tuple[str, ...]:
        """None."""
        return ()


@contextmanager
def kernels_for_cpu_tensors(tile: Tile = SMALL) -> Iterator[list[str]]:
    """Let the operators run Triton's kernels on tensors of a CPU; names those that were called."""
    called: list[str] = []

    def launcher(name: str) -> Any:
        function = getattr(triton, name)
        options = {} if name in ("quantize", "pad", "unpack", "unpack_all") else {"tile": tile}

        def launch(*arguments: Any) -> torch.Tensor:
            called.append(name)
            return function(*arguments, **options)

        return launch

    with torch.library._scoped_library("dgq", "IMPL") as library:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it overrides
            for name in gpu.LAUNCHED:
                library.impl(name, launcher(name), "CPU", allow_override=True)
        yield called
