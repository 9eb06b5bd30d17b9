"""Duration of one UNet call."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median

import psutil
import torch
from torch import nn

from dgq.devices import wait
from evaluation.images.sampling import Arguments

WARM_UP_CALLS = 1
OWN_LOAD = 2
"""Load beyond the number of CPUs that drawing itself may leave behind."""


@torch.no_grad()
def time_calls(
    unets: Mapping[str, nn.Module], call: Arguments, n_calls: int, device: str | torch.device
) -> dict[str, float]:
    """Median seconds of one call of each UNet.

    UNets take turns, so that a machine busy with something else slows them all.

    Args:
        unets: by name.
        call: arguments of the call.
        n_calls: timed calls of each, after an untimed one.
        device: device of all.
    """
    args, kwargs = call
    seconds: dict[str, list[float]] = {name: [] for name in unets}
    for turn in range(WARM_UP_CALLS + n_calls):
        for name, unet in unets.items():
            elapsed = _seconds(partial(unet, *args, **kwargs), device)
            if turn >= WARM_UP_CALLS:
                seconds[name].append(elapsed)
    return {name: median(values) for name, values in seconds.items()}


def busy_machine() -> Iterator[str]:
    """A note if other programs slow down calls: more wanted to run lately than there are CPUs."""
    load, n_cpus = psutil.getloadavg()[0], psutil.cpu_count() or 1
    if load > n_cpus + OWN_LOAD:
        yield (
            f"latency: the machine was busy (load {load:.1f} with {n_cpus} CPUs): measure again "
            "when nothing else runs"
        )


def _seconds(call: Callable[[], object], device: str | torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start
