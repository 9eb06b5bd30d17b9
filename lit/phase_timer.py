"""How long each phase of a calibration takes, over all targets."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class PhaseTimer:
    """Seconds spent in each phase: of the CPU, or on the wall where an accelerator computes.

    Args:
        device: that computes.
        seconds: of an earlier part of the same run, by phase; they are added to.
    """

    def __init__(self, device: torch.device, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self._clock = time.process_time if device.type == "cpu" else time.perf_counter
        self._started = 0.0

    def start(self) -> None:
        """Begin a phase."""
        self._started = self._clock()

    def stop(self, phase: str) -> None:
        """End the phase that was begun last."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + self._clock() - self._started

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Begin and end a phase."""
        started = self._clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - started
