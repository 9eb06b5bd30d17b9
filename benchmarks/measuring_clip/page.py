"""The page: what was measured, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measuring_clip.points import Point, rises
from benchmarks.measuring_clip.retrieval import DIRECTIONS
from evaluation.estimate import Estimate


def page(report: dict[str, Any], points: Sequence[Point], command: str, picture: str) -> str:
    """Everything; the training only if it was measured, with its plot in the file ``picture``."""
    lines = [
        "# How well the embedded CLIP measures",
        "",
        f"Of {report['clip']}; `{command}` makes this page. Captions are held out, pictures are",
        "their renders, intervals are Wilson's at 95 %; a bar is met by the share itself.",
        *retrieval_lines(report),
        *attribute_lines(report),
    ]
    if points:
        lines += training_lines(report["training"], points, picture)
    return "\n".join(lines)


def retrieval_lines(report: dict[str, Any]) -> list[str]:
    """Its section."""
    retrieval, n_same = report["retrieval"], report["captions_of_the_same_picture"]
    same = "No two of them describe the same picture."
    if n_same:
        same = f"{n_same} of them share their picture with another (A above B is B below A)"
        same += " and count as found with either."
    return [
        *("", "## Retrieval", ""),
        f"How often the nearest among {retrieval[DIRECTIONS[0]]['n']} is the right one. {same}",
        "",
        *share_table("direction", retrieval),
    ]


def attribute_lines(report: dict[str, Any]) -> list[str]:
    """Its section."""
    return [
        *("", "## One attribute changed", ""),
        "How often a picture is nearer to its caption than to the same caption with another value",
        "of one attribute (of one object; from either split). Few captions with a place or a count",
        "exist: these come several times, with other renders, so their intervals are optimistic.",
        "",
        *share_table("attribute", report["attributes"]),
    ]


def share_table(title: str, shares: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A Markdown table of shares."""
    lines = [f"| {title} | pictures | captions | share | 95 % | bar | met |", "|---" * 7 + "|"]
    for name, share in shares.items():
        low, high = share["interval"]
        met = "yes" if share["met"] else "**no**"
        lines.append(
            f"| {name} | {share['n']} | {share['captions']} | {share['value']:.3f} | "
            f"{low:.3f} to {high:.3f} | {share['bar']:.2f} | {met} |"
        )
    return lines


def training_lines(training: dict[str, Any], points: Sequence[Point], picture: str) -> list[str]:
    """FID along the training."""
    return [
        *("", "## FID along the training of the UNet", ""),
        f"{training['num_images']} images of held-out captions for each: {training['steps']} "
        f"steps, guidance {training['guidance_scale']:g}, the same noise.",
        "FID is to renders of other held-out scenes; intervals are bootstrapped over captions.",
        "",
        *(f"![FID and oracle along the training]({picture})", ""),
        "| steps of training | FID | CLIP score | oracle mean | oracle all |",
        "|---" * 5 + "|",
        *(point_row(point) for point in points),
        *("", statement(points)),
    ]


def point_row(point: Point) -> str:
    """A row of the table of points."""
    cells = [
        "renders" if point.step is None else str(point.step),
        f"{point.fid:.2f}",
        interval_cell(point.clip_score, ".1f"),
        interval_cell(point.oracle_mean, ".3f"),
        interval_cell(point.oracle_all, ".3f"),
    ]
    return f"| {' | '.join(cells)} |"


def interval_cell(estimate: Estimate, digits: str) -> str:
    """A value with its interval."""
    assert estimate.interval is not None
    low, high = (format(end, digits) for end in estimate.interval)
    return f"{format(estimate.value, digits)} ({low} to {high})"


def statement(points: Sequence[Point]) -> str:
    """Whether FID falls monotonically."""
    exceptions = [
        f"from {a.fid:.2f} at {a.step} to {b.fid:.2f} at {b.step}" for a, b in rises(points)
    ]
    if exceptions:
        return f"FID does not fall monotonically: it goes {', '.join(exceptions)}."
    return "FID falls monotonically along the training."
