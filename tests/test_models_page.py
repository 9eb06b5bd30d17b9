"""The page on models is what the tests go through."""

from models_page import PAGE, page


def test_the_page_on_models_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run tests/models_page.py"
