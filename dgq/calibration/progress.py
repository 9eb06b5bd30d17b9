"""The progress bar over all targets, with the current target and the error reached so far."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from dgq.bars import Bar


class CalibrationProgress(Bar):
    """A progress bar on stderr, as a context manager or from ``start`` to ``stop``.

    Args:
        n_targets: targets of the calibration.
        n_finished: targets that an earlier part of the same run finished.
        show: whether to print anything.
    """

    def __init__(self, n_targets: int, n_finished: int = 0, show: bool = True) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[error]}"),
            show=show,
        )
        self._task = self.add_task("calibrating", total=n_targets, completed=n_finished, error="")

    def enter(self, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Show the target's name, and the error of the previous one.

        Args:
            name: of the target.
            records: records of the previous targets.
        """
        change = ""
        if records:
            record = records[-1]
            change = f"previous error {record['error_nearest']:#.4g} -> {record['error']:#.4g}"
        self.update(self._task, description=name, error=change)

    def show_finished(self, n: float) -> None:
        """Show how many targets are finished, including the fraction of the current one."""
        self.update(self._task, completed=n)
