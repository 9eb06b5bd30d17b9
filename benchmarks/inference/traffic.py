"""Bytes that compiled graphs read and write, as Inductor counts them while compiling."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counted_traffic() -> Iterator[Callable[[], float | None]]:
    """Yield a function that gives the GB per call of what was compiled; None if nothing was.

    An operator's operands and outputs count once, whatever it does between them.
    """
    from torch._inductor import compile_fx, metrics

    log = compile_fx.inductor_metrics_log
    before = (log.level, log.propagate)
    log.setLevel(logging.INFO)  # it counts only if this log is on
    log.propagate = False
    metrics.num_bytes_accessed = 0
    try:
        yield lambda: metrics.num_bytes_accessed / 1e9 or None
    finally:
        log.setLevel(before[0])
        log.propagate = before[1]
