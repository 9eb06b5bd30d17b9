"""Limits of a run: ``max_steps`` and ``max_time`` stop it between two steps without hardening."""

import re
import time
from datetime import timedelta
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from dgq.command_line.stopping import Stopped, Stopper
from dgq.errors import DGQError
from lit.stopping import LIMIT_REACHED

CLOCK = re.compile(r"^(\d+):(\d{1,2}):(\d{1,2}):(\d{1,2})$")


class Limits(Callback):
    """Raises ``Stopped`` in the first process when a limit is reached or a signal was received.

    Lightning would end the epoch instead, and harden what is only half learned.

    Args:
        max_steps: optimizer steps over all targets; -1 for no limit.
        max_time: time since the command began; None for no limit.
        stopper: handler of the signals.
    """

    def __init__(self, max_steps: int, max_time: timedelta | None, stopper: Stopper) -> None:
        self._max_steps = max_steps
        self._deadline = None if max_time is None else time.monotonic() + max_time.total_seconds()
        self._stopper = stopper

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore our signal handlers: Lightning's would end the fit as if it were finished."""
        self._stopper.listen()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop if a limit was reached or a signal was received."""
        self._stopper.check()
        if not trainer.is_global_zero:
            return
        if 0 <= self._max_steps <= trainer.global_step:
            raise Stopped(f"stopped by --trainer.max_steps {self._max_steps}", LIMIT_REACHED)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise Stopped("stopped by --trainer.max_time", LIMIT_REACHED)


def parse_time(value: Any) -> timedelta | None:
    """A duration as Lightning accepts it: DD:HH:MM:SS, a timedelta, or its arguments by name.

    Raises:
        DGQError: if it is not a duration.
    """
    try:
        duration = _read_time(value)
    except (TypeError, ValueError, IndexError, OverflowError):
        duration = None
    if value is not None and (duration is None or duration < timedelta()):
        raise DGQError(f"--trainer.max_time {value} is not a duration: expected DD:HH:MM:SS")
    return duration


def _read_time(value: Any) -> timedelta | None:
    if value is None or isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        days, hours, minutes, seconds = map(int, CLOCK.findall(value)[0])
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return timedelta(**dict(value))
