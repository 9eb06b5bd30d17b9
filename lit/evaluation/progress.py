"""The progress bar: images per second and time left."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class SpeedColumn(ProgressColumn):
    """Items per second, averaged over the last batches."""

    def render(self, task: Task) -> Text:
        """The speed, or blanks while it is unknown."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:6.2f}/s" if speed else " " * 8, style="progress.data.speed")


def make_progress(console: Console) -> Progress:
    """A bar for each task on ``console``."""
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        SpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        # A single slow batch must not make the estimate disappear.
        speed_estimate_period=600,
    )
