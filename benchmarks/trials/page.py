"""The page: what was changed, what it did, in one table each for likeness and for drawing."""

from collections.abc import Iterable, Mapping
from statistics import mean, median
from typing import Any

import scenes
from benchmarks.likeness.figures import Figures
from benchmarks.likeness.kinds import CONV2, GEGLU
from benchmarks.likeness.tables import channel_outliers, number, table
from benchmarks.trials.measure import GROUPS, N_BITS
from benchmarks.trials.variants import VARIANTS

Summary = Mapping[str, Any]


def summary(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What the tables say of a trial, from all its figures."""
    figures, shares = Figures.from_json(measured["likeness"]), measured["drawing"]
    kinds = {"geglu": figures.of_kind(GEGLU), "conv2": figures.of_kind(CONV2)}
    outliers = {
        name: [r for r in map(channel_outliers, layers) if r is not None]
        for name, layers in (kinds | {"all": figures.layers}).items()
    }
    return {
        "start_token_times_uniform": mean(block.mass * block.n_tokens for block in figures.blocks),
        "outliers": {
            name: {"median": median(ratios), "largest": max(ratios)}
            for name, ratios in outliers.items()
        },
        "change_over_steps": median(layer.change for layer in figures.layers),
        "sqnr_db": measured["sqnr_db"],
        "parameters": measured["parameters"],
        "error": measured["training"]["error"],
        "oracle": {"mean": shares["mean"]["share"], "all": shares["all"]},
    }


def page(trials: Mapping[str, Summary], command: str, steps: int) -> str:
    """Everything in Markdown; ``trials`` are the summaries of those that are finished, by name."""
    sections = [introduction(command, steps)]
    if trials:
        sections += [likeness(trials), drawing(trials)]
    missing = [name for name in VARIANTS if name not in trials]
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


def likeness(trials: Mapping[str, Summary]) -> str:
    """What makes quantization hard."""
    header = (
        *("trial", "change", "start token, times uniform"),
        *(f"{kind}: {which}" for kind in ("GEGLU", "conv2") for which in ("median", "largest")),
        *("all inputs: median", "change over steps"),
        *(f"A{N_BITS}, G = {n}, dB" for n in GROUPS),
        "groups gain, dB",
    )
    return (
        "## Likeness\n\n"
        "Mass on the start token against uniform, mean of the blocks. Outliers: the largest range "
        "over the median range of the channels, at the median step; of GEGLU outputs, second "
        "resnet convolutions, and all that is quantized. Change over steps: the widest range over "
        f"the narrowest, median of the layers. A{N_BITS}: SQNR of the UNet's output with nothing "
        f"but activations quantized to {N_BITS} bits, in G groups for each step.\n\n"
        + table(header, (likeness_row(name, trial) for name, trial in trials.items()))
    )


def likeness_row(name: str, trial: Summary) -> list[str]:
    """One trial."""
    outliers = trial["outliers"]
    one, many = (trial["sqnr_db"][str(n)] for n in GROUPS)
    return [
        *(f"`{name}`", VARIANTS[name].title),
        number(trial["start_token_times_uniform"]),
        *numbers(outliers["geglu"].values()),
        *numbers(outliers["conv2"].values()),
        *numbers((outliers["all"]["median"], trial["change_over_steps"])),
        *(f"{one:.1f}", f"{many:.1f}", f"{many - one:.1f}"),
    ]


def numbers(values: Iterable[float]) -> list[str]:
    """Numbers for people."""
    return [number(value) for value in values]


def drawing(trials: Mapping[str, Summary]) -> str:
    """Whether it hurts."""
    header = ("trial", "parameters", "error", "oracle mean", "oracle all")
    n = next(iter(trials.values()))["oracle"]["all"]["pictures"]
    return (
        "## Drawing\n\n"
        f"{n} held-out captions, {scenes.NUM_INFERENCE_STEPS} PNDM steps, guidance "
        f"{scenes.GUIDANCE_SCALE:g}; in brackets 95 % intervals (Wilson's). "
        "Error: mean squared error of the last steps, of the velocity or the noise.\n\n"
        + table(header, (drawing_row(name, trial) for name, trial in trials.items()))
    )


def drawing_row(name: str, trial: Summary) -> list[str]:
    """One trial."""
    faultless = trial["oracle"]["all"]
    return [
        f"`{name}`",
        f"{trial['parameters'] / 1e6:.2f} M",
        f"{trial['error']:.3f}",
        f"{trial['oracle']['mean']:.3f}",
        f"{faultless['share']:.3f} ({faultless['low']:.3f} to {faultless['high']:.3f})",
    ]
