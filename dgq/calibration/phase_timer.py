"""How long each phase of a calibration takes, summed over all targets."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dgq.devices import wait


class PhaseTimer:
    """Seconds spent in each phase: CPU time, or wall time if an accelerator computes.

    Args:
        device: device that computes.
        seconds: seconds by phase from an earlier part of the same run, to which this adds.
    """

    def __init__(self, device: torch.device, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self._device = device
        self._started = 0.0

    def start(self) -> None:
        """Begin a phase."""
        self._started = self._clock()

    def stop(self, phase: str) -> None:
        """End the phase that began last."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + self._clock() - self._started

    def _clock(self) -> float:
        wait(self._device)
        return time.process_time() if self._device.type == "cpu" else time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Begin and end a phase."""
        started = self._clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - started
