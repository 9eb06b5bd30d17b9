"""The progress bar over all targets, with the current target and the error reached so far."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from dgq.bars import make_bar


class CalibrationProgress:
    """A progress bar on stderr, from ``start`` to ``stop``; also a context manager.

    Args:
        n_targets: targets of the calibration.
        n_finished: targets that an earlier part of the same run finished.
        show: whether to print anything.
    """

    def __init__(self, n_targets: int, n_finished: int = 0, show: bool = True) -> None:
        self.bar = make_bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[error]}"),
            show=show,
        )
        self._task = self.bar.add_task(
            "calibrating", total=n_targets, completed=n_finished, error=""
        )

    def start(self) -> None:
        """Show the bar."""
        self.bar.start()

    def stop(self) -> None:
        """Stop the bar and leave it on the screen."""
        self.bar.stop()

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
        self.bar.update(self._task, description=name, error=change)

    def update(self, n_finished: float) -> None:
        """Show how many targets are finished, including the fraction of the current one."""
        self.bar.update(self._task, completed=n_finished)

    def __enter__(self) -> "CalibrationProgress":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
