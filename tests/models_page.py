"""The lists of docs/reference/models.md: what the tests calibrate, and what they see refused.

``PYTHONPATH=. python tests/models_page.py`` rewrites them, between the marks of the page.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from dgq.pipelines.kinds import why_refused
from tests import model_zoo, unet_zoo

PAGE = Path(__file__).parents[1] / "docs/reference/models.md"


def renewed(page: str) -> str:
    """The page with its lists made anew."""
    for name, lines in lists().items():
        marks = f"<!-- {name} -->\n", "<!-- end -->"
        page, n = re.subn(
            "(?s)" + "(.*?)".join(map(re.escape, marks)),
            lambda _, lines=lines, marks=marks: "\n".join((*lines, "")).join(marks),
            page,
        )
        if n != 1:
            raise ValueError(f"{PAGE} has {n} lists between {marks}")
    return page


def lists() -> dict[str, list[str]]:
    """Lines by the name of the list."""
    return {
        "pipelines that calibrate": table(
            ("kind", "class", "notes"),
            ((n, f"`{k.pipeline}`", k.note) for n, k in model_zoo.CALIBRATE.items()),
        ),
        "pipelines that are refused": table(
            ("kind", "class", "why"),
            ((n, f"`{k}`", reason(k, parts)) for n, (k, parts, _) in model_zoo.REFUSED.items()),
        ),
        "UNets that calibrate": [f"- {name}" for name in unet_zoo.CALIBRATE],
        "UNets that are refused": [f"- {name}" for name in unet_zoo.REFUSED],
    }


def reason(kind: str, parts: dict[str, tuple[str, str]]) -> str:
    """What the line says of a pipeline that is refused."""
    index = {name: [*part] for name, part in parts.items()}
    return str(why_refused({"_class_name": kind, **index}))


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Lines of a table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
