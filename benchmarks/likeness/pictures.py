"""The measurement as pictures."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.likeness import histogram
from benchmarks.likeness.figures import BlockFigures, Figures
from benchmarks.likeness.kinds import CONV2, GEGLU
from benchmarks.likeness.measure import Measurement
from benchmarks.likeness.tables import channel_outliers, strongest
from dgq.storage.files import written_beside

DPI = 100
BLUE, ORANGE, GREEN = "#0b6e99", "#c2410c", "#4d7c0f"
LEAST_OCTAVE = -30
N_CURVES = 5
N_CHANNELS = 48


def write_pictures(measurement: Measurement, folder: Path) -> None:
    """All pictures of one UNet, each written beside its place and renamed."""
    pictures = {
        "start_token": start_token_picture(measurement.figures.blocks),
        "scores": scores_picture(measurement),
        "channels": channels_picture(measurement.figures, measurement.channel_widths),
    }
    for name, figure in pictures.items():
        with written_beside(folder / f"{name}.png") as beside:
            figure.savefig(beside, format="png", dpi=DPI, metadata={"Software": None})


def start_token_picture(blocks: list[BlockFigures]) -> Figure:
    """Bars by block, from the smallest to the largest head, against uniform."""
    figure, axes = new_figure(max(6.0, 2 + 0.2 * len(blocks)), 3.8)
    places = range(len(blocks))
    mass = [block.mass for block in blocks]
    heads = [
        [block.mass - block.smallest_head for block in blocks],
        [block.largest_head - block.mass for block in blocks],
    ]
    axes.bar(places, mass, color=BLUE, yerr=heads, capsize=3, ecolor="#555555", label="mean")
    uniform = 1 / blocks[0].n_tokens
    axes.axhline(uniform, color=ORANGE, linestyle="--", label=f"uniform, {uniform:.4f}")
    axes.set_xticks(places, [short(block.name) for block in blocks], rotation=90)
    axes.set_ylabel("mass on the start token")
    axes.set_title("Cross-attention by block; lines: smallest to largest head")
    axes.legend(frameon=False)
    return figure


def scores_picture(measurement: Measurement) -> Figure:
    """Three distributions over octaves; all below the least shown octave is in that."""
    figure, axes = new_figure(7.0, 3.8)
    curves = {
        "cross-attention, start token": (measurement.start_bins, ORANGE),
        "cross-attention, other tokens": (measurement.cross_bins, BLUE),
        "self-attention": (measurement.self_bins, GREEN),
    }
    octaves = torch.arange(LEAST_OCTAVE, 2) - 0.0
    for label, (bins, colour) in curves.items():
        share = histogram.share_by_octave(bins)
        first = LEAST_OCTAVE + 127
        shown = torch.cat([share[: first + 1].sum().reshape(1), share[first + 1 :]])
        # The last bin holds 1.0 alone.
        axes.stairs(shown * 100, octaves, color=colour, label=label, linewidth=1.8)
    axes.set_xlabel(f"log2 of the score (all below 2^{LEAST_OCTAVE} in the first octave)")
    axes.set_ylabel("% of the scores, by octave")
    axes.set_title("Attention scores")
    axes.legend(frameon=False, loc="upper left")
    return figure


def channels_picture(figures: Figures, widths: Mapping[str, Tensor]) -> Figure:
    """The strongest GEGLU and second resnet convolution: sorted ranges, and ranges by step."""
    figure = Figure(figsize=(10.0, 7.0), layout="constrained")
    shown = [
        (kind, layers[0].name)
        for kind in (GEGLU, CONV2)
        if (layers := strongest(figures.of_kind(kind), channel_outliers))
    ]
    for row, (kind, name) in enumerate(shown):
        width = widths[name].float()
        relative = width / width.quantile(0.5, dim=1, keepdim=True).clamp(min=1e-12)
        left, right = (figure.add_subplot(len(shown), 2, 2 * row + i) for i in (1, 2))
        plot_sorted(left, relative)
        plot_by_step(figure, right, relative)
        left.set_title(f"{kind}\n{short(name)}", fontsize="medium")
        right.set_title(f"its {min(N_CHANNELS, relative.shape[1])} widest channels")
    return figure


def plot_sorted(axes: Axes, relative: Tensor) -> None:
    """Ranges of all channels, the widest first, at a few steps.

    Args:
        axes: to draw on.
        relative: ranges over the step's median range, ``[steps, channels]``.
    """
    n_steps, n_channels = relative.shape
    ordered = relative.sort(1, descending=True).values
    for step in sorted(set(torch.linspace(0, n_steps - 1, N_CURVES).round().int().tolist())):
        colour = colormaps["viridis"](0.9 * step / max(1, n_steps - 1))
        axes.plot(range(1, n_channels + 1), ordered[step], color=colour, label=f"step {step + 1}")
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("channels, the widest first")
    axes.set_ylabel("range / median range")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False)


def plot_by_step(figure: Figure, axes: Axes, relative: Tensor) -> None:
    """Ranges of the widest channels as colours, ``relative`` as above; a row is one channel."""
    widest = relative.mean(0).argsort(descending=True)[:N_CHANNELS]
    values = relative[:, widest].T.clamp(min=2**-10).log2()
    extent = (0.5, relative.shape[0] + 0.5, len(widest) + 0.5, 0.5)
    image = axes.imshow(values, aspect="auto", cmap="magma", interpolation="none", extent=extent)
    axes.set_xlabel("sampler step")
    axes.set_ylabel("channel, by mean range")
    figure.colorbar(image, ax=axes, label="log2 of range / median range")


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one plot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def short(name: str) -> str:
    """``down_blocks.0.attentions.1.transformer_blocks.0.attn2`` as ``down 0.1.0``."""
    part = name.partition("_")[0]
    inside = name.partition(".ff.")[0].partition(".attn")[0].partition(".conv")[0]
    numbers = re.findall(r"(?<=[.])\d+", inside)
    return f"{part} {'.'.join(numbers)}"
