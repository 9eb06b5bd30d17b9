"""Progress: images per second and time left."""

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SPEED_PERIOD = 600
"""Seconds that the speed is averaged over, so that a single slow batch does not hide it."""

LINE_SECONDS = 30
"""Seconds between two lines in a log."""


class SpeedColumn(ProgressColumn):
    """Items per second, averaged over the last batches."""

    def render(self, task: Task) -> Text:
        """The speed, or blanks while it is unknown."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:6.2f}/s" if speed else " " * 8, style="progress.data.speed")


class LineProgress(Progress):
    """Progress without a terminal, such as in a log file: a line now and then."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, disable=True, speed_estimate_period=SPEED_PERIOD)
        self._printed = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task; print its progress if the last line is old enough."""
        super().advance(task_id, advance)
        if time.monotonic() - self._printed < LINE_SECONDS:
            return
        self._printed = time.monotonic()
        task = next(task for task in self.tasks if task.id == task_id)
        speed = f", {task.speed:.2f}/s" if task.speed else ""
        left = "" if task.time_remaining is None else f", {timedelta(seconds=task.time_remaining)}"
        self.console.print(
            f"{task.description}: {task.completed:.0f}/{task.total:.0f}{speed}"
            f"{left and left + ' left'}",
            highlight=False,
        )


def make_progress(console: Console) -> Progress:
    """A bar for each task on ``console``, or lines if it is not a terminal."""
    if not console.is_terminal:
        return LineProgress(console)
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        SpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=SPEED_PERIOD,
    )
