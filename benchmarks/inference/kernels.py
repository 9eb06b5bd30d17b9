"""Kernels that a GPU runs in a call, by name and by purpose."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

CALLS = 2
REST = "norms and the rest"
KINDS: Mapping[str, str] = {
    "attention": r"sdpa|flash|fmha|attention",
    "unpacking of weights": r"^_expand",
    "padding of codes": r"^_pad",
    "sums of parts": r"^add_parts",
    "quantization alone": r"^_quantize",
    "products": r"product|nvjet|gemm|fprop|cutlass|triton_mm|convolution2d|xmma",
}
"""Kinds by parts of the kernel names; the first match counts."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that a call launches.

    Args:
        name: name as given by the profiler.
        launches: launches in one call.
        seconds: seconds of all launches.
    """

    name: str
    launches: float
    seconds: float


def kernels_of(run: Callable[[], object]) -> list[Kernel]:
    """The kernels of one call, the longest first."""
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(CALLS):
            run()
        torch.cuda.synchronize()
    seconds: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    for event in recorded.events() or ():
        if event.device_type.name == "CUDA":
            seconds[event.name] += event.device_time / 1e6
            launches[event.name] += 1
    return [Kernel(name, launches[name] / CALLS, s / CALLS) for name, s in seconds.most_common()]


def by_kind(kernels: Sequence[Kernel]) -> dict[str, float]:
    """Seconds of each kind of kernel, the longest first."""
    seconds: dict[str, float] = {}
    for kernel in kernels:
        kind = kind_of(kernel.name)
        seconds[kind] = seconds.get(kind, 0.0) + kernel.seconds
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def kind_of(name: str) -> str:
    """What a kernel is for."""
    if name.startswith("triton_") and "triton_mm" not in name and "convolution2d" not in name:
        return REST  # made by the compiler; its names list all that was fused
    return next((kind for kind, words in KINDS.items() if re.search(words, name)), REST)
