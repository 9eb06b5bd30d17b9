"""The page: what was changed, what it did, in one table each for likeness and for drawing."""

from collections.abc import Iterator, Mapping
from statistics import mean, median
from typing import Any

from likeness.figures import Figures
from likeness.kinds import CONV2, GEGLU
from likeness.tables import channel_outliers, number, spread_of, table

import scenes
from trials.measure import GROUPS, N_BITS
from trials.variants import VARIANTS

Measured = Mapping[str, Any]


def page(finished: Mapping[str, Measured], command: str, steps: int) -> str:
    """Everything in Markdown; ``finished`` are the trials' figures, by name."""
    sections = [introduction(command, steps)]
    if finished:
        sections += [likeness(finished), drawing(finished)]
    missing = [name for name in VARIANTS if name not in finished]
    if missing:
        sections.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join(sections) + "\n"


def introduction(command: str, steps: int) -> str:
    """What was done."""
    return (
        "# Trials: what makes the embedded model more like Stable Diffusion\n\n"
        f"UNets trained anew for {steps} steps, most with a single change to `base`: the settings "
        "of the model's second training (learning rate 1e-3, 8 heads, 4 to 8 channels in a group "
        f"of a norm) but for the steps. `{command}` makes this page. Nearly all were trained once: "
        "`other-seed` and `together-again` show how far two seeds can lie apart, so that "
        "differences of that size mean nothing, and larger ones are no proof."
    )


def likeness(finished: Mapping[str, Measured]) -> str:
    """What makes quantization hard."""
    header = (
        *("trial", "change", "start token, times uniform"),
        *(f"{kind}: {which}" for kind in ("GEGLU", "conv2") for which in ("median", "largest")),
        *("all inputs: median", "change over steps"),
        *(f"A{N_BITS}, G = {n}, dB" for n in GROUPS),
        "groups gain, dB",
    )
    rows = [likeness_row(name, measured) for name, measured in finished.items()]
    return (
        "## Likeness\n\n"
        "Mass on the start token against uniform, mean of the blocks. Outliers: the largest range "
        "over the median range of the channels, at the median step; of GEGLU outputs, second "
        "resnet convolutions, and all that is quantized. Change over steps: the widest range over "
        f"the narrowest, median of the layers. A{N_BITS}: SQNR of the UNet's output with nothing "
        f"but activations quantized to {N_BITS} bits, in G groups for each step.\n\n"
        + table(header, rows)
    )


def likeness_row(name: str, measured: Measured) -> list[str]:
    """One trial."""
    figures = Figures.from_json(measured["likeness"])
    ratios = [ratio for ratio in map(channel_outliers, figures.layers) if ratio is not None]
    one, many = (measured["sqnr_db"][str(n)] for n in GROUPS)
    return [
        *(f"`{name}`", VARIANTS[name].title),
        number(mean(block.mass * block.n_tokens for block in figures.blocks)),
        *spread_of(figures.of_kind(GEGLU), channel_outliers),
        *spread_of(figures.of_kind(CONV2), channel_outliers),
        number(median(ratios)),
        number(median(layer.change for layer in figures.layers)),
        *(f"{one:.1f}", f"{many:.1f}", f"{many - one:.1f}"),
    ]


def drawing(finished: Mapping[str, Measured]) -> str:
    """Whether it hurts."""
    header = ("trial", "parameters", "error", "oracle mean", "oracle all")
    n = next(iter(finished.values()))["effort"]["images"]
    return (
        "## Drawing\n\n"
        f"{n} held-out captions, {scenes.NUM_INFERENCE_STEPS} PNDM steps, guidance "
        f"{scenes.GUIDANCE_SCALE:g}; in brackets 95 % intervals (Wilson's). "
        "Error: mean squared error of the last steps, of the velocity or the noise.\n\n"
        + table(header, drawing_rows(finished))
    )


def drawing_rows(finished: Mapping[str, Measured]) -> Iterator[list[str]]:
    """One line for each trial."""
    for name, measured in finished.items():
        training, shares = measured["training"], measured["drawing"]
        faultless = shares["all"]
        yield [
            f"`{name}`",
            f"{measured['parameters'] / 1e6:.2f} M",
            f"{training['error']:.3f}",
            f"{shares['mean']['share']:.3f}",
            f"{faultless['share']:.3f} ({faultless['low']:.3f} to {faultless['high']:.3f})",
        ]
