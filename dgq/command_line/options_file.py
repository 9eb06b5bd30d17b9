"""Checks of option files, whose errors a parser would report without a file name or not at all."""

from collections.abc import Collection
from pathlib import Path

import yaml

from dgq.errors import DGQError


def check_options_file(path: Path, sections: Collection[str] = ()) -> None:
    """Raise DGQError unless a file holds options in YAML.

    Args:
        path: of the file.
        sections: options with suboptions; a plain value would reset all of them.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DGQError(f"{path} is not YAML in UTF-8 ({reason}): correct the file") from error
    if not isinstance(content, dict) or not content:
        raise DGQError(f"{path} holds no options: expected YAML with lines like `name: value`")
    for name in sections:
        if not isinstance(content.get(name, {}), dict | str):
            raise DGQError(
                f"{path}: {name} is {content[name]!r:.40}, which is not an option: expected "
                f"`{name}:` and lines like `name: value` below it, indented"
            )
