"""Pages of the documentation, and the commands and links in them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> str:
    """All code blocks of a page in these languages, one after the other."""
    return "".join(text for name, text in BLOCK.findall(page.read_text()) if name in languages)


def commands(start: str) -> list[list[str]]:
    """Arguments of all commands that start so in the shell blocks of all pages, each once."""
    found = {}
    for page in PAGES:
        shell = blocks(page, "", "sh").replace("\\\n", " ")
        for line in re.findall(rf"^{re.escape(start)} (.*)$", shell, re.MULTILINE):
            found[line] = shlex.split(line, comments=True)
    return list(found.values())


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and mkdocs make them."""
    found = set()
    for text in re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE):
        found.add(re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-"))
    return found
