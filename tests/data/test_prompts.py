"""Prompts drawn from captions."""

from pathlib import Path

import pytest

from data.prompts import choose_prompts
from dgq.errors import DGQError

COCO = Path(__file__).parents[3] / "shared" / "data" / "captions_val2017.json"


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_prompts_are_distinct_captions_drawn_by_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "c.txt", [f"caption {i // 2}" for i in range(100)])
    first = choose_prompts(path, 20, seed=0)
    assert first == choose_prompts(path, 20, seed=0)
    assert first != choose_prompts(path, 20, seed=1)
    assert len(set(first)) == 20
    assert set(choose_prompts(path, 50, seed=0)) == {f"caption {i}" for i in range(50)}


def test_the_draw_does_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    lines = [f"caption {i}" for i in range(9)]
    a = write(tmp_path / "a.txt", lines)
    b = write(tmp_path / "b.txt", lines[::-1])
    assert choose_prompts(a, 4, seed=3) == choose_prompts(b, 4, seed=3)


def test_too_few_captions_are_refused_with_both_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "c.txt", ["A dog", "A dog", "A cat"])
    with pytest.raises(DGQError, match="holds 2 distinct captions, fewer than the 3 asked for"):
        choose_prompts(path, 3, seed=0)


def test_the_default_is_captions_of_the_embedded_scenes() -> None:
    prompts = choose_prompts(None, 7, seed=0)
    assert len(prompts) == 7
    assert prompts == choose_prompts(None, 7, seed=0)
    assert all(" on a " in prompt or " background" in prompt for prompt in prompts)


@pytest.mark.skipif(not COCO.is_file(), reason="COCO's captions are not on this machine")
def test_prompts_of_real_coco_captions() -> None:
    prompts = choose_prompts(COCO, 128, seed=0)
    assert len(set(prompts)) == 128
    assert all(prompt and prompt == prompt.strip() for prompt in prompts)
