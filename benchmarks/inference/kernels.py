"""What a GPU does in a call: seconds of its kernels, by what they are for."""

import re
from collections import Counter
from collections.abc import Callable, Mapping

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
"""By what their names contain, the first that does."""


def kernel_seconds(run: Callable[[], object]) -> dict[str, float]:
    """Of one call, each kind of kernel, the longest first."""
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(CALLS):
            run()
        torch.cuda.synchronize()
    seconds: Counter[str] = Counter()
    for event in recorded.events() or ():
        if event.device_type.name == "CUDA":
            seconds[kind_of(event.name)] += event.device_time / 1e6 / CALLS
    return dict(seconds.most_common())


def kind_of(name: str) -> str:
    """What a kernel is for."""
    if name.startswith("triton_") and "triton_mm" not in name and "convolution2d" not in name:
        return REST  # made by the compiler; its names list all that was fused
    return next((kind for kind, words in KINDS.items() if re.search(words, name)), REST)
