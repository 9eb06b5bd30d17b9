"""What README.md says can be done: its example, its links, its length."""

import re

import dgq
import scenes
from tests.pages import README, blocks, headings

TEXT = README.read_text()
PYTHON = blocks(README, "python")


def test_the_example_uses_names_that_exist() -> None:
    compile(PYTHON, "README.md", "exec")
    names = re.findall(r"dgq\.(\w+)", PYTHON)
    assert names
    assert all(hasattr(dgq, name) for name in names)
    prompt = re.search(r'prompt = "(.*)"', PYTHON)
    assert prompt is not None
    assert scenes.is_scene_caption(prompt[1])


def test_every_page_and_heading_it_links_to_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#([^)]+))?\)", TEXT)
    assert links
    for file, heading in links:
        page = README.parent / file
        assert page.exists(), file
        assert not heading or heading in headings(page), f"{file}#{heading}"
