"""The grid, the table and the page."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFont
from rich.console import Console

from evaluation.images.grid import CELL, GAP, LABEL_WIDTH, draw_grid, fit, wrap
from evaluation.models import Model
from evaluation.report.blocks import block_errors
from evaluation.report.charts import line_chart
from evaluation.report.page import render
from evaluation.report.pictures import Shown, explaining_pictures
from evaluation.report.rows import Cell, Row, make_rows
from evaluation.report.table import make_table

EVIL = "<script>alert('prompt')</script> & [red]"


def estimate(value: float, std: float | None = None, interval: Any = None) -> dict[str, Any]:
    parts = {"value": value, "std": std, "interval": interval, "seeds": [value]}
    return parts | {"difference": None}


@pytest.fixture
def report() -> dict[str, Any]:
    """Full precision and two models, one of them with an evil name."""
    cost = {"bops": 32e9, "bytes_on_disk": 4e6, "bytes_in_memory": 4e6, "latency_s": 0.1}
    steps = {"mean_db": 12.5, "per_step_db": [10.0, None, 15.0]}

    def model(name: str, fid: float, **others: Any) -> dict[str, Any]:
        reward = estimate(fid) | {"difference": [fid - 10.1, fid - 9.9]}
        metrics = {"fid": estimate(fid), "clip_score": None, "kid": estimate(0.002)}
        metrics["image_reward"] = reward
        return {
            "name": name,
            "checkpoint": None,
            "checkpoint_sha256": None,
            "quantization": None,
            "metrics": metrics | others.pop("metrics", {}),
            "sqnr": None,
            "cost": cost | {"bops": 32e9 * len(name)},
        } | others

    sqnr = {"plain": steps, "guided": None}
    return {
        "protocol": {
            "preset": "scenes",
            "prompts": EVIL,
            "references": None,
            "num_images": 4,
            "num_inference_steps": 25,
            "guidance_scale": 7.5,
            "seeds": [0, 1],
            "sampler": "PNDMScheduler",
            "pipeline": "scenes",
            "device": "cpu",
            "sqnr_prompts": 2,
            "extractors": {"fid and kid": "features of a CLIP", "clip score": None},
        },
        "models": [
            model("full precision", 10.0),
            model("w4a8", 9.5, sqnr=sqnr, metrics={"psnr": estimate(30.0, 0.5)}),
            model(EVIL, 11.25, sqnr=sqnr),
        ],
        "n_references": 40,
        "notes": [f"fid: {EVIL}"],
        "versions": {"torch": "2"},
        "threads": 3,
        "command": f"python evaluate.py --prompts '{EVIL}'",
    }


def test_the_grid_shows_each_image_in_its_place() -> None:
    colours = [["red", "lime"], ["blue", "yellow"]]
    rows = {
        name: [Image.new("RGB", (8, 8), c) for c in row]
        for name, row in zip(("full precision", "quantized"), colours, strict=True)
    }
    grid = draw_grid(rows, ["a short caption", "a caption " * 12])
    for row, names in enumerate(colours):
        for column, name in enumerate(names):
            centre = (
                LABEL_WIDTH + column * (CELL + GAP) + CELL // 2,
                GAP + row * (CELL + GAP) + CELL // 2,
            )
            assert grid.getpixel(centre) == Image.new("RGB", (1, 1), name).getpixel((0, 0))
    below = grid.crop((LABEL_WIDTH, 2 * (CELL + GAP) + GAP, grid.width, grid.height))
    assert below.convert("L").getextrema()[0] < 128  # something is written there


def test_small_images_keep_hard_pixels() -> None:
    checkers = Image.new("L", (2, 2))
    checkers.putdata([0, 255, 255, 0])
    enlarged = fit(checkers.convert("RGB"))
    assert enlarged.size == (CELL, CELL)
    assert {colour for _, colour in enlarged.getcolors()} == {(0, 0, 0), (255, 255, 255)}


def test_large_and_oblong_images_fit_a_cell() -> None:
    assert fit(Image.new("RGB", (1024, 512))).size == (CELL, CELL // 2)


def test_wrapping_keeps_all_words_and_the_width() -> None:
    font = ImageFont.load_default(14)
    text = "a small striped red circle to the left of a large blue square on a pink background"
    lines = wrap(text, font, CELL)
    assert " ".join(lines) == text
    assert all(font.getlength(line) <= CELL for line in lines)
    assert wrap("unbreakable" * 9, font, CELL) == ["unbreakable" * 9]


@pytest.mark.parametrize(
    ("values", "better", "digits", "change", "verdict"),
    [
        ((10.0, 9.0), -1, 2, "-1.00", 1),
        ((10.0, 11.0), -1, 2, "+1.00", -1),
        ((0.5, 0.75), 1, 3, "+0.250", 1),
        ((0.5, 0.25), 1, 3, "-0.250", -1),
        ((0.5, 0.5001), 1, 3, "=", 0),
        ((32.0, 4.0), 0, 2, "÷ 8.0", 1),
        ((4.0, 8.0), 0, 2, "÷ 0.5", -1),
        ((None, 30.0), 1, 2, "", 0),
        ((30.0, None), 1, 2, "", 0),
    ],
)
def test_changes_say_whether_they_are_for_the_better(
    values: tuple[float | None, float | None], better: int, digits: int, change: str, verdict: int
) -> None:
    changed = None if None in values else (values[1] - values[0],) * 2  # type: ignore[operator]
    cells = [Cell(values[0]), Cell(values[1], difference=changed)]
    row = Row("metric", cells, better, digits)
    assert (row.change(1), row.verdict(1)) == (change, verdict)
    assert (row.change(0), row.verdict(0)) == ("", 0)


def test_a_change_that_may_be_chance_is_neither_better_nor_worse() -> None:
    verdicts = []
    for difference in ((-0.1, 0.3), (0.1, 0.3), None):
        row = Row("oracle", [Cell(0.5), Cell(0.7, difference=difference)], 1, 3)
        assert row.change(1) == "+0.200"
        verdicts.append(row.verdict(1))
    assert verdicts == [0, 1, 0]
    cost = Row("bytes", [Cell(8.0), Cell(4.0)], 0, 1)
    assert cost.verdict(1) == 1  # costs are counted, not sampled


def test_intervals_are_in_the_unit_of_their_number(report: dict[str, Any]) -> None:
    known = estimate(0.002, 0.001, [0.0015, 0.0025]) | {"difference": [-0.001, 0.003]}
    report["models"][1]["metrics"]["kid"] = known
    (row,) = (row for row in make_rows(report) if row.label.startswith("KID to real"))
    assert (row.text(1), row.interval(1)) == ("2.00 ± 1.00", "1.50 to 2.50")
    assert row.cells[1].difference == (-1.0, 3.0)


def test_numbers_have_their_deviation_and_interval(report: dict[str, Any]) -> None:
    rows = {row.label: row for row in make_rows(report)}
    assert rows["PSNR to full precision, dB"].text(1) == "30.00 ± 0.50"
    assert rows["PSNR to full precision, dB"].text(2) == "-"
    assert rows["KID to real images, x 1000"].text(0) == "2.00"
    assert rows["SQNR of the UNet, mean over steps, dB"].text(1) == "12.50"
    assert "CLIP score" not in rows
    cell = Cell(0.5, interval=(0.4, 0.6))
    assert Row("oracle", [cell], 1, 3).interval(0) == "0.400 to 0.600"


def test_the_table_says_what_is_missing_and_why(report: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(make_table(report))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("w4a8", "25 steps of PNDM", "features of a CLIP", "12.50", "[red]", "note:"):
        assert expected in text
    assert "9.50 (-0.50)" in text


class Page(HTMLParser):
    """What a browser would fetch and run, and whether every tag is closed."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.alternatives: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value or "")
            if name == "alt":
                self.alternatives.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def picture(label: str) -> Shown:
    return Shown(label, line_chart({label: [1.0]}, "x", "y"), False)


def test_the_page_is_whole_needs_no_network_and_runs_nothing(
    report: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        log = f"target,error_nearest,error\nblock.{name},0.2,0.1\n{EVIL},,0.3\n"
        (tmp_path / name / "log.csv").write_text(log)
    (tmp_path / "a" / "explanation").mkdir()
    Image.new("RGB", (200, 200), "red").save(tmp_path / "a" / "explanation" / "ranges.png")
    models = [
        Model("full precision"),
        Model("w4a8", tmp_path / "a" / "quantized"),
        Model(EVIL, tmp_path / "b" / "quantized"),
    ]
    pictures = [(EVIL, [picture("full precision"), picture("w4a8"), picture(EVIL)])]
    text = render(report, models, pictures)
    page = Page()
    page.feed(text)
    assert not page.open
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not re.search(r"url\(|@import|https?://", text)
    assert len(page.addresses) == len(page.alternatives) == 3 + 1 + 1  # images, SQNR, explanation
    for expected in (
        "▼ -0.500",
        "▲ +1.250",
        '"> -0.50',
        '"> +1.25',
        "÷ 3.5",
        "block.a",
        "block.b",
        "scenes",
        "torch 2",
        "3 CPU threads",
    ):
        assert expected in text, expected


def test_the_page_of_full_precision_alone(report: dict[str, Any]) -> None:
    report["models"] = report["models"][:1]
    text = render(report, [Model("full precision")], [("a dog", [picture("full precision")])])
    assert "Full precision" in text
    assert "Error of each block" not in text
    assert "Signal to" not in text


@pytest.mark.parametrize("content", ["", "target\n", "a,b\n1,2\n", "target,error\nx,text\n"])
def test_a_log_of_another_kind_is_left_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "log.csv").write_text(content)
    assert block_errors([Model("m", tmp_path / "quantized")])[1] == []


def test_errors_of_blocks(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("target,error_nearest,error\nx,0.2,0.1\ny,,0.3\n")
    names, errors = block_errors([Model("full"), Model("m", tmp_path / "quantized")])
    assert names == ["m"]
    assert [(e.target, e.error, e.nearest) for e in errors] == [
        ("x", [0.1], [0.2]),
        ("y", [0.3], [None]),
    ]


def test_charts_are_pictures() -> None:
    uri = line_chart({"_a": [1.0, None, 2.0], "b$x$": [3.0, 4.0, 5.0]}, "step", "dB")
    kind, content = uri.split(";base64,")
    assert kind == "data:image/png"
    with Image.open(io.BytesIO(base64.b64decode(content))) as chart:
        assert chart.width > 600


def test_no_explanation(tmp_path: Path) -> None:
    assert explaining_pictures([Model("full"), Model("m", tmp_path / "quantized")]) == []
