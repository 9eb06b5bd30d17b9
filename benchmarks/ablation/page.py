"""The text of docs/reference/results.md, and the tables between the marks in README.md."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.ablation.summary import Row, find, gain, rows_of

BEGIN, END = "<!-- ablation: begin -->", "<!-- ablation: end -->"
BASELINE = "DGQ, our weight learning"
OURS = "ours"
"""The row that comes last for each number of bits."""
PARTS = (
    "per-tensor, static",
    "per step",
    "8 groups",
    "log scores in cross-attention",
    "`<start>` kept",
    "live maximum",
    "learned rounding",
)
"""Parts of DGQ, in the paper's order."""

IMAGES = {
    "PSNR dB": ("psnr", ".1f"),
    "FID": ("fid", ".2f"),
    "FID to FP": ("fid_to_full_precision", ".2f"),
    "CLIP score": ("clip_score", ".1f"),
    "oracle all": ("oracle_all", ".3f"),
}


def page(lines: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]], how: str) -> str:
    """The whole text of docs/reference/results.md.

    Args:
        lines: lines of the finished cells.
        images: metrics of models whose images were drawn.
        how: the command that made them.
    """
    rows = rows_of(lines)
    parts = [
        "# Results",
        f"`{how}` writes this page; [results.json](results.json) has every number and the exact "
        "commands of each cell.",
        f"{explanation(lines)} {SKIPS}",
    ]
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        parts += main_section(model, own)
        parts += component_section(model, own)
        parts += simple_section("Attention scores", "scores", model, own)
        parts += simple_section("Size of the calibration set", "samples", model, own)
    if images:
        parts += ["## Images", images_table(images)]
    return "\n\n".join(parts) + "\n"


SKIPS = (
    "Only Q-Diffusion quantizes skip connections separately; "
    "[experiment 21](../experiments.md) says what DGQ gains by doing the same."
)


def explanation(lines: Sequence[Mapping[str, Any]]) -> str:
    """What the columns mean."""
    prompts = sorted({line["n_prompts"] for line in lines})
    return (
        "SQNR compares the UNet's output with full precision on the same inputs, pooled over all "
        f"steps of {' or '.join(map(str, prompts))} held-out prompts, for the saved model as it "
        "runs. ± is the standard deviation over calibration seeds, whose number is in brackets. "
        "Intervals are 95 % bootstrap intervals over prompts, for the first seed. The difference "
        "to DGQ is the mean over the seeds that both have. MB is the size of the file, scales, "
        "zero points, exponents and groups included."
    )


def readme_section(lines: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]) -> str:
    """The main tables and the images."""
    rows = [row for row in rows_of(lines) if row.stage == "main"]
    models = dict.fromkeys(row.model for row in rows)
    tables = [main_table(model, [r for r in rows if r.model == model]) for model in models]
    return "\n\n".join([explanation(lines), *tables, *([images_table(images)] if images else [])])


def with_section(readme: str, section: str) -> str:
    """README.md with the tables between its marks replaced; unchanged without marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return readme
    return f"{before}{begin}\n\n{section}\n\n{end}{after}"


def main_section(model: str, rows: Sequence[Row]) -> list[str]:
    """The section with the main table of a model."""
    main = [row for row in rows if row.stage == "main"]
    return [f"## Recipes: {model}", main_table(model, main)] if main else []


def main_table(model: str, rows: Sequence[Row]) -> str:
    """The main table: a row for each recipe at each number of bits."""
    head = (f"`{model}`", "recipe", "SQNR dB", "95 % interval", "vs. DGQ, dB", "integer layers")
    table = [header(*head, "GBOPs", "MB")]
    bits = sorted({row.bits for row in rows}, key=lambda b: [-int(n) for n in b[1:].split("a")])
    for each in bits:
        base = find(rows, row=BASELINE, bits=each)
        of_bits = [row for row in rows if row.bits == each]
        for row in sorted(of_bits, key=lambda row: row.row == OURS):
            table.append(cells(each.upper(), row.row, *figures_of(row, base)))
    return "\n".join(table)


def figures_of(row: Row, base: Row | None) -> Iterator[str]:
    """The cells of a row of the main table."""
    line = row.lines[0]
    yield mean_cell(row)
    yield "{:.1f} to {:.1f}".format(*row.interval_db)
    found = None if base is None or base is row else gain(row, base)
    yield "" if found is None else spread_text(found.mean_db, found.spread_db, "+.1f")
    yield str(line["integer_layers"] or "none")
    yield f"{line['gbops']:.1f}"
    yield f"{line['megabytes']:.2f}"


def component_section(model: str, rows: Sequence[Row]) -> list[str]:
    """DGQ's parts, added one at a time, and the gain of each."""
    own = [row for row in rows if row.stage == "components"]
    if not own:
        return []
    columns = list(dict.fromkeys(row.bits for row in own))
    table = [header("", *(text for bits in columns for text in (bits.upper(), "gain")))]
    for before, name in zip((None, *PARTS), PARTS, strict=False):
        texts = [text for bits in columns for text in part_cells(own, bits, name, before)]
        table.append(cells(name if before is None else f"+ {name}", *texts))
    for name in dict.fromkeys(row.row for row in own if row.row not in PARTS):
        texts = [text for bits in columns for text in part_cells(own, bits, name, None)]
        table.append(cells(name, *texts))
    return [f"## Parts of DGQ, in the paper's order: {model}", CLAIMS, "\n".join(table)]


CLAIMS = (
    "Each row that starts with + adds one part to the row above; gains are in dB, with their 95 % "
    "intervals. Where an interval includes 0 or lies below it, a claim of the paper is not "
    "reproduced here."
)


def part_cells(rows: Sequence[Row], bits: str, name: str, before: str | None) -> tuple[str, str]:
    """SQNR of a row, and its gain over the row before."""
    row = find(rows, row=name, bits=bits)
    over = None if before is None else find(rows, row=before, bits=bits)
    if row is None:
        return "", ""
    found = None if over is None else gain(row, over)
    if found is None:
        return mean_cell(row), ""
    low, high = found.interval_db
    verdict = "" if low > 0 else ", a loss" if high < 0 else ", not clear"
    return mean_cell(row), f"{found.mean_db:+.2f} ({low:+.2f} to {high:+.2f}){verdict}"


def simple_section(title: str, stage: str, model: str, rows: Sequence[Row]) -> list[str]:
    """A section with the SQNR of each row, in a column for each number of bits."""
    own = [row for row in rows if row.stage == stage]
    if not own:
        return []
    columns = list(dict.fromkeys(row.bits for row in own))
    table = [header("", *(bits.upper() for bits in columns))]
    for name in dict.fromkeys(row.row for row in own):
        found = [find(own, row=name, bits=bits) for bits in columns]
        table.append(cells(name, *("" if row is None else mean_cell(row) for row in found)))
    return [f"## {title}: {model}", "\n".join(table)]


def images_table(images: Sequence[Mapping[str, Any]]) -> str:
    """A table of image metrics with their intervals."""
    n = images[0]["num_images"]
    table = [header(f"{n} images", *IMAGES)]
    for model in images:
        table.append(cells(model["label"], *(metric(model, *how) for how in IMAGES.values())))
    return "\n".join(table)


def metric(model: Mapping[str, Any], name: str, digits: str) -> str:
    """A metric's value, with its interval if there is one."""
    found = model["metrics"].get(name)
    if found is None:
        return ""
    text = format(found["value"], digits)
    if found.get("interval"):
        low, high = (format(value, digits) for value in found["interval"])
        text += f" ({low} to {high})"
    return text


def mean_cell(row: Row) -> str:
    """Mean, spread and number of seeds."""
    text = spread_text(row.sqnr_db, row.spread_db, ".1f")
    return text if len(row.lines) == 1 else f"{text} ({len(row.lines)})"


def spread_text(mean: float, spread: float | None, digits: str) -> str:
    """A mean with its standard deviation."""
    text = format(mean, digits)
    return text if spread is None else f"{text} ± {spread:.1f}"


def header(*names: str) -> str:
    """The two header lines of a table."""
    return cells(*names) + "\n" + "|---" * len(names) + "|"


def cells(*texts: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(texts) + " |"
