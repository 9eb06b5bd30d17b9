"""Which metrics see the damage, and from which bits on: sentences, tables, a plot."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.damage.noise import THRESHOLD
from dgq.storage.files import write_json, written_beside
from evaluation.report.charts import COLOURS, DPI

COLUMNS = {
    "fid": ("FID", ".2f"),
    "fid_to_full_precision": ("FID to FP", ".2f"),
    "clip_score": ("CLIP score", ".1f"),
    "oracle_mean": ("oracle mean", ".3f"),
    "oracle_all": ("oracle all", ".3f"),
}
"""Metrics of images by key: label and format; they see damage if they see it beyond the noise."""

PAIR_COLUMNS = {**COLUMNS, "psnr": ("PSNR", ".1f")}
"""Metrics that may tell two recipes apart."""

SEEN, BETTER = " ●", " ○"
LEAST_DRAWN = 0.1
"""Deviations at the lower end of the plot; what is less, or better, is drawn there."""


def write(figures: dict[str, Any], docs: Path) -> str:
    """Write damage.json, damage.png and damage.md, and return the last."""
    write_json(docs / "damage.json", figures)
    with written_beside(docs / "damage.png") as beside:
        plot(figures).savefig(beside, format="png", dpi=DPI, metadata={"Software": None})
    text = "\n".join(page(figures)) + "\n"
    with written_beside(docs / "damage.md") as beside:
        beside.write_text(text)
    return text


def page(figures: dict[str, Any]) -> Iterator[str]:
    """The lines of damage.md."""
    n, seeds = figures["num_images"], figures["seeds"]
    yield (
        f"Embedded model, nearest rounding, per-tensor activations, n = {n} images; "
        f"`{figures['command']}` makes this page."
    )
    yield ""
    yield from damage_table(figures)
    yield ""
    yield (
        "In brackets: the change for the worse in standard deviations of the largest noise floor "
        f"(negative: for the better). ●: damage seen, more than {THRESHOLD:g} of them; ○: as much "
        f"for the better. Changes are to full precision with the same noise (seed {seeds[0]}); "
        "that of FID to FP is to the FID between two seeds of full precision: where it is "
        "negative, images differ less than by another seed. SQNR ± its deviation over prompts."
    )
    yield ""
    yield from (f"- {sentence}" for sentence in sentences(figures))
    yield ""
    yield "![damage in deviations of the noise](damage.png)"
    yield ""
    yield from floor_table(figures)
    yield ""
    yield from pair_table(figures)


def damage_table(figures: dict[str, Any]) -> Iterator[str]:
    """A line for full precision and for each number of bits."""
    yield (
        "| bits | SQNR dB | PSNR dB | " + " | ".join(label for label, _ in COLUMNS.values()) + " |"
    )
    yield "|---" * (len(COLUMNS) + 3) + "|"
    full = figures["full_precision"]
    cells = [format(full[key], spec) if key in full else "" for key, (_, spec) in COLUMNS.items()]
    yield "| " + " | ".join(["full precision", "", "", *cells]) + " |"
    for model in figures["bits"]:
        metrics = model["metrics"]
        cells = [cell(metrics[key], spec, key in full) for key, (_, spec) in COLUMNS.items()]
        sqnr = f"{number(model['sqnr_db'], '.1f')} ± {number(model['sqnr_sd_db'], '.1f')}"
        psnr = number(model["psnr_db"], ".1f")
        yield "| " + " | ".join([model["bits"], sqnr, psnr, *cells]) + " |"


def cell(metric: dict[str, Any], spec: str, can_be_better: bool) -> str:
    """A value, its change in deviations, and a mark where that is seen.

    Args:
        metric: its value and change.
        spec: format of the value.
        can_be_better: whether full precision has a value too, which may be surpassed.
    """
    sds = metric["sds"]
    mark = SEEN if sds > THRESHOLD else BETTER if sds < -THRESHOLD and can_be_better else ""
    return f"{format(metric['value'], spec)} ({sds:+.1f}{mark})"


def number(value: float | None, spec: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, spec)


def sentences(figures: dict[str, Any]) -> Iterator[str]:
    """For each metric, where it begins to see the damage."""
    bits = [model["bits"] for model in figures["bits"]]
    yield (
        f"SQNR, PSNR: see it at {bits[0]} already, and at all fewer bits; they measure the "
        "difference itself, so there is no noise to exceed."
    )
    for key, (label, _) in COLUMNS.items():
        sds = [model["metrics"][key]["sds"] for model in figures["bits"]]
        yield f"{label}: {begins_to_see(bits, sds)}."


def begins_to_see(bits: Sequence[str], sds: Sequence[float]) -> str:
    """Where a metric begins to see the damage.

    It begins at the first bits from which on it sees it at all fewer bits; what is seen before
    that, and missed again, is said apart.

    Args:
        bits: from many to few.
        sds: change for the worse at these bits, in deviations of the noise.
    """
    start = first_of_last_run(sds)
    before = [name for name, value in zip(bits[:start], sds[:start], strict=True) if _sees(value)]
    elsewhere = f" (at {', '.join(before)} too, but not steadily)" if before else ""
    if start < len(bits):
        return f"begins to see it at {bits[start]}, {sds[start]:.1f} sd{elsewhere}"
    if before:
        return f"sees it at {', '.join(before)} alone, and no longer at {bits[-1]}"
    return f"sees it nowhere down to {bits[-1]}"


def first_of_last_run(sds: Sequence[float]) -> int:
    """Position from which on damage is seen to the end; the length where the last is not seen."""
    start = len(sds)
    while start and _sees(sds[start - 1]):
        start -= 1
    return start


def _sees(sds: float) -> bool:
    return sds > THRESHOLD


def floor_table(figures: dict[str, Any]) -> Iterator[str]:
    """Mean and deviation of each metric where nothing is quantized."""
    n, seeds, draws = figures["num_images"], figures["seeds"], figures["draws"]
    yield (
        f"Noise floors, mean ± standard deviation. Renders: FID of {n} renders to "
        f"{figures['n_references']} of other held-out scenes, {draws} draws. Seeds: full precision "
        f"with seeds {', '.join(map(str, seeds))}; FID to FP between each two of them. Prompts: "
        "deviation of the change by drawing prompts again (bootstrap; in pairs, FID to FP by "
        "itself), at each of the bits above."
    )
    yield ""
    yield "| metric | renders | seeds | prompts |"
    yield "|---|---|---|---|"
    for key, (label, spec) in COLUMNS.items():
        known = figures["floors"][key]
        pairs = [
            f"{known[name]['mean']:{spec}} ± {known[name]['sd']:.2g}" if name in known else ""
            for name in ("renders", "seeds")
        ]
        prompts = ", ".join(f"{m['metrics'][key]['prompts_sd']:.2g}" for m in figures["bits"])
        yield "| " + " | ".join([label, *pairs, prompts]) + " |"


def pair_table(figures: dict[str, Any]) -> Iterator[str]:
    """Recipes at the same bits that differ by about a decibel, and what tells them apart."""
    low, high = figures["pair_range_db"]
    yield (
        f"Resolution: recipes with the same bits whose SQNR differs by {low:g} to {high:g} dB. "
        "Differences in their own deviations over prompts (bootstrap in pairs), positive where the "
        "recipe of higher SQNR is better, with marks as above."
    )
    yield ""
    if not figures["pairs"]:
        yield "There are no such pairs here; `--rivals` adds recipes."
        return
    labels = " | ".join(label for label, _ in PAIR_COLUMNS.values())
    yield f"| bits | higher SQNR | lower SQNR | dB | {labels} | told apart by | images for it |"
    yield "|---" * (len(PAIR_COLUMNS) + 6) + "|"
    for pair in figures["pairs"]:
        sds = [pair["sds"][key] for key in PAIR_COLUMNS]
        marks = [SEEN if v > THRESHOLD else BETTER if v < -THRESHOLD else "" for v in sds]
        cells = [f"{value:+.1f}{mark}" for value, mark in zip(sds, marks, strict=True)]
        telling = ", ".join(PAIR_COLUMNS[key][0] for key in pair["told_apart_by"]) or "none"
        names = [pair["bits"], pair["better"], pair["worse"], f"{pair['sqnr_db']:.1f}"]
        needed = number(pair["images_needed"], "d")
        yield "| " + " | ".join([*names, *cells, telling, needed]) + " |"
    yield ""
    yield (
        f"Images for it: how many would bring the best of FID, CLIP score and oracle to "
        f"{THRESHOLD:g} deviations, which fall with the root of their number."
    )


def plot(figures: dict[str, Any]) -> Figure:
    """The change of each metric in deviations of the noise over the bits; below it the SQNR."""
    models = figures["bits"]
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(2.2, 1))
    x = range(len(models))
    for (key, (label, _)), colour, marker in zip(COLUMNS.items(), COLOURS, "osD^v", strict=False):
        sds = [max(model["metrics"][key]["sds"], LEAST_DRAWN) for model in models]
        upper.plot(x, sds, marker=marker, color=colour, label=label, clip_on=False)
    upper.axhline(THRESHOLD, color="black", linestyle="--", linewidth=1)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right"}
    label = f"seen above {THRESHOLD:g} sd"
    upper.annotate(label, (1, THRESHOLD), (0, 3), textcoords="offset points", **place)
    upper.set_yscale("log")
    upper.set_ylim(bottom=LEAST_DRAWN)
    upper.set_ylabel(f"damage, sd of the noise\n(at {LEAST_DRAWN:g}: less, or none)")
    upper.legend(fontsize="small", frameon=False)
    for key, label, colour in (("sqnr_db", "SQNR", COLOURS[5]), ("psnr_db", "PSNR", COLOURS[6])):
        known = [float("nan") if model[key] is None else model[key] for model in models]
        lower.plot(x, known, marker="o", color=colour, label=label)
    lower.set_ylabel("dB")
    lower.legend(fontsize="small", frameon=False)
    lower.set_xticks(list(x), [model["bits"] for model in models])
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
