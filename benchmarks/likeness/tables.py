"""The measurement as Markdown: a table for each question, all of it from the figures."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean, median

from benchmarks.likeness.figures import (
    CHANNELS,
    CROSS_OTHERS,
    EXPONENTS,
    PIXELS,
    SELF,
    WHOLE,
    BlockFigures,
    Figures,
    LayerFigures,
)
from benchmarks.likeness.histogram import LEAST_LOG2
from benchmarks.likeness.kinds import CONV2, GEGLU, KINDS, OTHER

N_STRONGEST = 5
OUTLIERS_OF_SD = {GEGLU: "tens", CONV2: "tens"}
"""What is known of Stable Diffusion's channels, by kind."""
START_OF_SD = "far above uniform"
PICTURES = {
    "start_token": "Mass on the start token by block; lines from the smallest to the largest head",
    "scores": "Distribution of the attention scores",
    "channels": "Ranges of the channels of the strongest layers",
}
"""Captions by name of the file."""

Row = Sequence[object]


def report(heading: str, figures: Figures, over_training: Mapping[str, Figures]) -> str:
    """The whole document.

    Args:
        heading: what was measured, and how.
        figures: of the weights that are described in detail.
        over_training: figures by weights; a table of them is written if there are several.
    """
    sections = [
        "# Likeness to Stable Diffusion\n\n" + heading,
        start_token(figures.blocks),
        scores(figures),
        outliers(figures),
        change(figures),
        axes(figures),
    ]
    if len(over_training) > 1:
        sections.append(training(over_training))
    return "\n\n".join(sections) + "\n"


def start_token(blocks: Sequence[BlockFigures]) -> str:
    """Section 1."""
    header = (
        *("cross-attention", "mass", "times uniform", "with prompt", "empty prompt"),
        *("smallest head", "largest head", "first third", "middle", "last third"),
    )
    rows = [block_row(block) for block in blocks]
    _, *columns = zip(*rows, strict=True)
    means: list[object] = ["**mean**", *map(column_mean, columns)]
    known = ["Stable Diffusion", "", START_OF_SD, *[""] * (len(header) - 3)]
    times = [block.mass * block.n_tokens for block in blocks]
    text = (
        "## 1. Mass of cross-attention on the start token\n\n"
        f"Mean probability of key 0. Uniform over {blocks[0].n_tokens} tokens is "
        f"{1 / blocks[0].n_tokens:.4f}; the blocks have {min(times):.1f} to {max(times):.1f} times "
        "that. Thirds are those of the sampler's steps, the noisiest first.\n\n"
        f"{picture('start_token')}\n\n"
    )
    cells = [[row[0], *map(number, row[1:])] for row in [*rows, means]]
    return text + table(header, [*cells, known])


def block_row(block: BlockFigures) -> list[object]:
    """A block's line, in the order of the header."""
    return [
        f"`{block.name}`",
        *(block.mass, block.mass * block.n_tokens),
        *(block.mass_with_prompt, block.mass_without_prompt),
        *(block.smallest_head, block.largest_head, *block.thirds),
    ]


def scores(figures: Figures) -> str:
    """Section 2."""
    header = ("scores", *(f"below 2^{e}" for e in EXPONENTS), "median", "99 %", "largest")
    rows = [
        (
            name,
            *(f"{share:.1%}" for share in score.below.values()),
            *map(power, (score.median, score.high, score.largest)),
        )
        for name, score in figures.scores.items()
    ]
    return (
        "## 2. Attention scores\n\n"
        "Every score of every layer, step and head counts once, so large latents weigh most.\n\n"
        f"{picture('scores')}\n\n" + table(header, rows)
    )


def outliers(figures: Figures) -> str:
    """Section 3."""
    header = ("input", "layers", *("channels: median", "largest"), *("tokens: median", "largest"))
    rows = [
        (
            kind,
            len(layers),
            *spread_of(layers, channel_outliers),
            *spread_of(layers, pixel_outliers),
            OUTLIERS_OF_SD.get(kind, ""),
        )
        for kind, layers in by_kind(figures).items()
        if any(layer.channel_outliers is not None for layer in layers)
    ]
    return (
        "## 3. Outliers\n\n"
        "The largest range over the median range among the channels, and among the pixels or "
        "tokens, of a layer's input at its median step; 1 is no outlier at all.\n\n"
        + table((*header, "Stable Diffusion, channels"), rows)
        + "\n\nStrongest by channel:\n\n"
        + strongest_table(figures, channel_outliers)
        + "\n\nStrongest by pixel or token:\n\n"
        + strongest_table(figures, pixel_outliers)
        + f"\n\n{picture('channels')}"
    )


def change(figures: Figures) -> str:
    """Section 4."""
    rows = [
        (kind, len(layers), *spread_of(layers, lambda layer: layer.change))
        for kind, layers in by_kind(figures).items()
    ]
    return (
        "## 4. Change over the steps\n\n"
        "A layer's total range at its widest step over that at its narrowest.\n\n"
        + table(("input", "layers", "median", "largest"), rows)
    )


def axes(figures: Figures) -> str:
    """Section 5."""
    counts = {
        kind: Counter(layer.axis for layer in layers) for kind, layers in by_kind(figures).items()
    }
    columns = (CHANNELS, PIXELS, WHOLE)
    rows = [(kind, *(count[axis] for axis in columns)) for kind, count in counts.items()]
    everything = Counter(layer.axis for layer in figures.layers)
    rows.append(("**all**", *(everything[axis] for axis in columns)))
    return (
        "## 5. The axis that DGQ groups\n\n"
        "Layers by what DGQ's own rule picks: the axis whose ranges differ most.\n\n"
        + table(("input", *columns), rows)
    )


def training(over_training: Mapping[str, Figures]) -> str:
    """A line for each set of weights."""
    header = (
        *("weights", "start mass, mean of blocks", "times uniform"),
        *("other cross scores below 2^-8", "self scores below 2^-8"),
        *(f"{kind}: {which}" for kind in ("GEGLU", "conv2") for which in ("median", "largest")),
        *("change over steps, median", "grouped by pixel or token"),
    )
    rows = [training_row(name, figures) for name, figures in over_training.items()]
    known = ("Stable Diffusion", "", START_OF_SD, "", "", "tens", "", "tens", "", "", "")
    text = "## Over training\n\nOutliers are those of channels.\n\n"
    return text + table(header, [*rows, known])


def training_row(name: str, figures: Figures) -> Row:
    """One set of weights."""
    grouped = [layer.axis == PIXELS for layer in figures.layers if layer.axis != WHOLE]
    return (
        f"`{name}`",
        number(mean(block.mass for block in figures.blocks)),
        number(mean(block.mass * block.n_tokens for block in figures.blocks)),
        *(f"{figures.scores[which].below[-8]:.1%}" for which in (CROSS_OTHERS, SELF)),
        *spread_of(figures.of_kind(GEGLU), channel_outliers),
        *spread_of(figures.of_kind(CONV2), channel_outliers),
        number(median(layer.change for layer in figures.layers)),
        f"{mean(grouped):.0%}",
    )


def by_kind(figures: Figures) -> dict[str, list[LayerFigures]]:
    """Layers of every kind that there is."""
    kinds = {kind: figures.of_kind(kind) for kind in dict.fromkeys([*KINDS.values(), OTHER])}
    return {kind: layers for kind, layers in kinds.items() if layers}


def channel_outliers(layer: LayerFigures) -> float | None:
    """For sorting."""
    return layer.channel_outliers


def pixel_outliers(layer: LayerFigures) -> float | None:
    """For sorting."""
    return layer.pixel_outliers


def strongest(
    layers: Iterable[LayerFigures], value: Callable[[LayerFigures], float | None]
) -> list[LayerFigures]:
    """The layers that have the value, the largest first."""
    having = [layer for layer in layers if value(layer) is not None]
    return sorted(having, key=lambda layer: -(value(layer) or 0))


def strongest_table(figures: Figures, value: Callable[[LayerFigures], float | None]) -> str:
    """The strongest layers by name."""
    rows = [
        (f"`{layer.name}`", layer.kind, number(value(layer)))
        for layer in strongest(figures.layers, value)[:N_STRONGEST]
    ]
    return table(("layer", "input", "largest over median range"), rows)


def spread_of(
    layers: Sequence[LayerFigures], value: Callable[[LayerFigures], float | None]
) -> tuple[str, str]:
    """Median and largest value of some layers, as text."""
    values = [v for v in map(value, layers) if v is not None]
    return (number(median(values)), number(max(values))) if values else ("", "")


def column_mean(column: Sequence[object]) -> float | None:
    """Mean of the numbers of a column, if there are any."""
    values = [value for value in column if isinstance(value, float)]
    return mean(values) if values else None


def number(value: object) -> str:
    """A number for people: three digits; nothing for None."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def power(exponent: float) -> str:
    """A power of two, to a tenth of an octave."""
    if exponent <= LEAST_LOG2:
        return "0"
    return f"2^{round(exponent, 1) + 0.0:.1f}"


def picture(name: str) -> str:
    """A picture beside the document."""
    return f"![{PICTURES[name]}](likeness/{name}.png)"


def table(header: Row, rows: Iterable[Row]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
