"""The grid and the table."""

import io

from PIL import Image, ImageFont
from rich.console import Console

from lit.evaluation.grid import CELL, GAP, LABEL_WIDTH, draw_grid, fit, wrap
from lit.evaluation.table import Row, make_table


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


def test_changes_for_the_better_are_green() -> None:
    assert Row("FID", 10.0, 9.0, better=-1).change == "[green]-1.00[/]"
    assert Row("FID", 10.0, 11.0, better=-1).change == "[red]+1.00[/]"
    assert Row("oracle", 0.5, 0.75, better=1, digits=3).change == "[green]+0.250[/]"
    assert Row("oracle", 0.5, 0.5, better=1).change == "="
    assert Row("BOPs", 32.0, 4.0, better=0).change == "[green]÷ 8.0[/]"
    assert Row("PSNR", None, 30.0, better=1).change == ""


def test_the_table_says_what_is_missing_and_why() -> None:
    metrics = {"fid": None, "inception_score": None, "clip_score": 21.5, "oracle": None}
    distances = {"fid_to_full_precision": 3.25, "psnr": 30.0, "sqnr_db": 12.5}
    report = {
        "protocol": {
            "checkpoint": "w4a8",
            "prompts": "prompts.txt",
            "num_images": 4,
            "num_inference_steps": 25,
            "guidance_scale": 7.5,
            "seed": 0,
            "sampler": "PNDMScheduler",
            "extractors": {"fid": "pooled vision features of a CLIP"},
        },
        "full_precision": metrics,
        "quantized": metrics | distances,
        "cost": {name: {"bops": 1e9, "bytes": 1e6} for name in ("full_precision", "quantized")},
        "notes": ["fid: needs real images"],
    }
    console = Console(file=io.StringIO(), width=100)
    console.print(make_table(report))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("w4a8", "25 steps of PNDM", "pooled vision", "fid: needs real", "12.50", "- "):
        assert expected in text
    assert "oracle" not in text
