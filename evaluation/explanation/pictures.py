"""The four pictures: ranges, attention scores, sensitivity and costs."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from evaluation.explanation.costs import Costs, by_block
from evaluation.explanation.ranges import LayerRanges
from evaluation.explanation.scores import Scores
from evaluation.explanation.style import BLUE, GREY, KINDS, ORANGE, kind_of, plain, short

N_BARS = 24
LEAST_SCORE = 1e-4
WIDTH_NAME = "width of the range /\nmedian of the step, log2"


def ranges_picture(layers: Sequence[LayerRanges]) -> Figure:
    """Widths by channel and by pixel over the steps, and the scales assigned to them."""
    figure = Figure(figsize=(12, 2.9 * len(layers)), layout="constrained")
    grid = figure.subplots(len(layers), 3, squeeze=False)
    for row, layer in zip(grid, layers, strict=True):
        order = by_width(layer.channels)
        draw_widths(figure, row[0], layer.channels[:, order], "channels, widest first")
        title = f"{short(layer.name)}\nwidest channel {layer.outlier_ratio:.1f} times the median"
        row[0].set_title(title, fontsize="small", loc="left")
        if layer.pixels is None:
            row[1].set_axis_off()
        else:
            pixels = layer.pixels[:, by_width(layer.pixels)]
            draw_widths(figure, row[1], pixels, "pixels or tokens, widest first")
        draw_scales(figure, row[2], layer)
    return figure


def by_width(widths: Tensor) -> Tensor:
    """Indices of the members from the widest to the narrowest, by their mean over the steps."""
    return widths.mean(0).argsort(descending=True)


def relative_widths(widths: Tensor) -> Tensor:
    """``log2`` of widths over the median of their step, ``[steps, members]``, at least -4."""
    median = widths.median(1, keepdim=True).values.clamp(min=1e-12)
    return (widths / median).clamp(min=2**-4).log2()


def draw_widths(figure: Figure, axes: Axes, widths: Tensor, label: str) -> None:
    """Draw a map of widths: members down, steps to the right."""
    shown = axes.imshow(
        relative_widths(widths).T, aspect="auto", cmap="viridis", interpolation="nearest"
    )
    figure.colorbar(shown, ax=axes, label=WIDTH_NAME)
    axes.set_xlabel("sampler step")
    axes.set_ylabel(label)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def scale_ranks(layer: LayerRanges) -> Tensor:
    """The scale of each member, ``[steps, members]``: ``log2`` of its multiple, or its group.

    Groups are numbered at each step from that with the narrowest members to the widest.
    """
    if layer.kind == "multiple":
        return layer.shared.float().log2()
    widths = layer.channels if layer.axis == "channels" or layer.pixels is None else layer.pixels
    ranks = torch.zeros_like(layer.shared)
    for step, (index, width) in enumerate(zip(layer.shared, widths, strict=True)):
        groups = index.unique()
        means = torch.stack([width[index == group].mean() for group in groups])
        for rank, place in enumerate(means.argsort()):
            ranks[step, index == groups[place]] = rank
    return ranks.float()


def draw_scales(figure: Figure, axes: Axes, layer: LayerRanges) -> None:
    """Draw a map of the scales: members in the order of their widths, steps to the right."""
    widths = layer.channels if layer.axis == "channels" or layer.pixels is None else layer.pixels
    ranks = scale_ranks(layer)[:, by_width(widths)]
    shown = axes.imshow(ranks.T, aspect="auto", cmap="cividis", interpolation="nearest")
    names = {"multiple": "multiple of the finest scale, log2", "group": "group, widest last"}
    figure.colorbar(shown, ax=axes, label=names[layer.kind])
    axes.set_xlabel("sampler step")
    axes.set_title(f"scales of its {layer.axis}", fontsize="small", loc="left")


def scores_picture(scores: Scores, tokens: Sequence[str]) -> Figure:
    """Scores by pixel and token before and after quantization, and each token's share.

    Args:
        scores: scores of one attention.
        tokens: texts of the first tokens, which are shown.
    """
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    n = len(tokens)
    norm = LogNorm(LEAST_SCORE, 1)
    for axes, values, title in (
        (left, scores.before, "full precision"),
        (middle, scores.after, "quantized"),
    ):
        shown = axes.imshow(
            values[:, :n].clamp(min=LEAST_SCORE), aspect="auto", cmap="viridis", norm=norm
        )
        axes.add_patch(start_frame(values.shape[0]))
        axes.set_title(f"{short(scores.name)}\n{title}", fontsize="small", loc="left")
        axes.set_ylabel("pixel")
        axes.set_xticks(range(n), tokens, rotation=90, fontsize="small")
    figure.colorbar(shown, ax=[left, middle], label="score, mean of the heads")
    draw_masses(right, scores, tokens)
    return figure


def start_frame(n_queries: int) -> Rectangle:
    """A frame around the start token's column."""
    return Rectangle((-0.5, -0.5), 1, n_queries, fill=False, edgecolor=ORANGE, linewidth=2.5)


def draw_masses(axes: Axes, scores: Scores, tokens: Sequence[str]) -> None:
    """Bars of each token's share of all scores."""
    n = len(tokens)
    places = torch.arange(n)
    before, after = scores.before.mean(0)[:n], scores.after.mean(0)[:n]
    colours = [ORANGE, *[BLUE] * (n - 1)]
    axes.bar(places - 0.2, before, 0.4, color=colours, label="full precision")
    axes.bar(places + 0.2, after, 0.4, color=colours, alpha=0.45, hatch="//", label="quantized")
    axes.set_yscale("log")
    axes.set_xticks(range(n), tokens, rotation=90, fontsize="small")
    first, last = scores.start_mass
    axes.set_title(
        f"what each token takes; <start> (orange) {100 * first:.1f} % -> {100 * last:.1f} %",
        fontsize="small",
        loc="left",
    )
    axes.legend(frameon=False, fontsize="small")
    plain(axes)


def sensitivity_picture(
    found: Mapping[str, float], everything: float, seconds: Mapping[str, float]
) -> Figure:
    """The parts that hurt most, and all parts against the time that they take.

    Args:
        found: SQNR in decibel with one part quantized, by its name.
        everything: the same with all of them.
        seconds: time of each part in full precision.
    """
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    worst = sorted(found, key=lambda name: found[name])[:N_BARS][::-1]
    colours = [KINDS[kind_of(name)][0] for name in worst]
    left.barh(range(len(worst)), [found[n] for n in worst], color=colours)
    left.set_yticks(range(len(worst)), [short(n) for n in worst], fontsize="x-small")
    left.axvline(everything, color="black", linestyle="--", linewidth=1)
    left.set_xlabel("SQNR of the UNet's output with this part alone quantized, dB")
    left.set_title(
        f"What hurts most; dashed: everything quantized, {everything:.1f} dB", fontsize="medium"
    )
    for kind, (colour, marker) in KINDS.items():
        names = [name for name in found if kind_of(name) == kind]
        if names:
            x, y = [1e3 * seconds.get(n, 0.0) for n in names], [found[n] for n in names]
            right.scatter(x, y, color=colour, marker=marker, label=kind, alpha=0.85, s=36)
    right.set_xlabel("time of a call in full precision, ms")
    right.set_ylabel("SQNR with this part alone quantized, dB")
    right.set_title("Low: hurts; right: what quantizing it could save", fontsize="medium")
    right.legend(frameon=False, fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        plain(axes)
    return figure


def costs_picture(costs: Mapping[str, Costs]) -> Figure:
    """Weights, products, bytes and time by block, before and after quantization."""
    sums = by_block(costs)
    figure = Figure(figsize=(13, 0.7 + 0.55 * len(sums)), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    draw_block_bars(panels[0], sums, ("weights",), 1e6, "million weights")
    draw_block_bars(panels[1], sums, ("macs",), 1e9, "GMACs of the batch")
    draw_block_bars(panels[2], sums, ("bytes_before", "bytes_after"), 1e6, "MB of weights")
    draw_block_bars(panels[3], sums, ("seconds_before", "seconds_after"), 1e-3, "ms of layers")
    panels[0].set_yticks(range(len(sums)), [short(name) for name in sums])
    panels[0].invert_yaxis()
    panels[2].legend(frameon=False, fontsize="small")
    return figure


def draw_block_bars(
    axes: Axes, sums: Mapping[str, Mapping[str, float]], keys: Sequence[str], unit: float, name: str
) -> None:
    """Bars of one quantity for each block; two bars if there is a before and an after."""
    height = 0.8 / len(keys)
    looks = ((GREY, "full precision"), (BLUE, "quantized"))
    totals = []
    for place, (key, (colour, label)) in enumerate(zip(keys, looks, strict=False)):
        values = [block[key] / unit for block in sums.values()]
        shift = (place - (len(keys) - 1) / 2) * height
        positions = [position + shift for position in range(len(values))]
        axes.barh(positions, values, height, color=colour, label=label)
        totals.append(sum(values))
    text = " -> ".join(f"{total:.3g}" for total in totals)
    axes.set_title(f"{name}: {text}", fontsize="medium", loc="left")
    axes.grid(axis="x", alpha=0.25)
    plain(axes)
