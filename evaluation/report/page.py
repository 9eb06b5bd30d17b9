"""The HTML report: all results in one file that needs no network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dgq.storage.files import written_beside
from evaluation.images.store import ImageStore
from evaluation.models import Model
from evaluation.report.blocks import block_errors
from evaluation.report.charts import line_chart
from evaluation.report.pictures import Shown, compared_pictures, explaining_pictures
from evaluation.report.rows import make_rows

TEMPLATE = "page.html.jinja"


def write_page(
    path: Path, report: Mapping[str, Any], models: list[Model], stores: Mapping[str, ImageStore]
) -> None:
    """Write ``report.html``, atomically.

    Args:
        path: of the file.
        report: content of ``metrics.json``.
        models: full precision first.
        stores: their images with the first seed, by name.
    """
    page = render(report, models, compared_pictures(stores))
    with written_beside(path) as beside:
        beside.write_text(page, encoding="utf-8")


def render(
    report: Mapping[str, Any], models: list[Model], pictures: list[tuple[str, list[Shown]]]
) -> str:
    """The page as HTML, with all external text escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    logged, blocks = block_errors(models)
    return environment.get_template(TEMPLATE).render(
        report=report,
        models=report["models"],
        rows=list(make_rows(dict(report))),
        charts=sqnr_charts(report["models"]),
        pictures=pictures,
        explanations=explaining_pictures(models),
        logged=logged,
        blocks=blocks,
        worst=max((e for b in blocks for e in b.error if e is not None), default=1.0) or 1.0,
    )


def sqnr_charts(models: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Titles and charts of the SQNR over the steps, plain and after guidance."""
    charts = []
    for key, title in (("plain", "UNet output"), ("guided", "after guidance")):
        lines = {
            model["name"]: model["sqnr"][key]["per_step_db"]
            for model in models
            if model["sqnr"] is not None and model["sqnr"][key] is not None
        }
        if lines:
            charts.append((title, line_chart(lines, "sampler step", "SQNR, dB")))
    return charts
