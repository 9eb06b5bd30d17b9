"""The plot: FID and oracle over steps of training."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.measuring_clip.points import Point
from evaluation.estimate import Estimate
from evaluation.report.charts import COLOURS


def plot(points: Sequence[Point]) -> Figure:
    """FID and oracle over steps."""
    steps = [point.step for point in points if point.step is not None]
    figure = Figure(figsize=(5.5, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    draw_fid(upper, steps, points)
    draw_oracle(lower, steps, points)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize="small", frameon=False)
    return figure


def draw_fid(axes: Any, steps: Sequence[int], points: Sequence[Point]) -> None:
    """FID on a logarithmic axis, and that of renders as its floor."""
    trained = [point for point in points if point.step is not None]
    axes.plot(steps, [point.fid for point in trained], "o-", color=COLOURS[0])
    for point in points:
        if point.step is None:
            axes.axhline(point.fid, color=COLOURS[-1], linestyle=":", label="renders")
    axes.set(yscale="log", ylabel="FID")


def draw_oracle(axes: Any, steps: Sequence[int], points: Sequence[Point]) -> None:
    """What the oracle finds right."""
    trained = [point for point in points if point.step is not None]
    for name, colour in zip(("oracle_mean", "oracle_all"), COLOURS, strict=False):
        draw_estimates(axes, steps, [getattr(p, name) for p in trained], name, colour)
    axes.set(xscale="log", xlabel="steps of training", ylabel="share right", ylim=(0, 1.02))
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.xaxis.set_minor_locator(NullLocator())


def draw_estimates(
    axes: Any, steps: Sequence[int], estimates: Sequence[Estimate], name: str, colour: str
) -> None:
    """A line with its intervals."""
    values = [estimate.value for estimate in estimates]
    low, high = zip(*(estimate.interval or (0.0, 1.0) for estimate in estimates), strict=True)
    axes.plot(steps, values, "o-", color=colour, label=name.replace("_", " "))
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
