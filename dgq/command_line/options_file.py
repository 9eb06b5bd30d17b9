"""Checks of option files, whose errors a parser would report without a file name or not at all."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from dgq.errors import DGQError


def check_options_file(path: Path, sections: Collection[str] = ()) -> dict[str, Any]:
    """The content of a file of options.

    Args:
        path: of the file.
        sections: options with suboptions; a plain value would reset all of them.

    Raises:
        DGQError: unless the file holds options in YAML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = yaml.safe_load(text)
        twice = next(_repeated(yaml.compose(text, yaml.SafeLoader)), None)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DGQError(f"{path} is not YAML in UTF-8 ({reason}): correct the file") from error
    if not isinstance(content, dict) or not content:
        raise DGQError(f"{path} holds no options: expected YAML with lines like `name: value`")
    if twice is not None:
        raise DGQError(
            f"{path}: {twice.value} stands a second time in line {twice.start_mark.line + 1}, and "
            "would replace the first: join them"
        )
    for name in sections:
        if not isinstance(content.get(name, {}), dict | str):
            raise DGQError(
                f"{path}: {name} is {content[name]!r:.40}, which is not an option: expected "
                f"`{name}:` and lines like `name: value` below it, indented"
            )
    return content


def _repeated(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Keys that are in their mapping already; YAML forbids them, but its parser keeps the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key
                seen.add(key.value)
            yield from _repeated(value)
