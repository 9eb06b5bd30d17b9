"""The page on models lists what the tests go through."""

import pytest

from tests.models_page import PAGE, renewed


def test_the_page_on_models_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == renewed(page), "run PYTHONPATH=. python tests/models_page.py"


def test_a_page_without_its_marks_is_no_page() -> None:
    with pytest.raises(ValueError, match="0 lists between"):
        renewed("# Models")
