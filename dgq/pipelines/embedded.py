"""Pipelines included in a clone of the repository, by name.

Each folder in ``assets`` may list pipelines in ``pipelines.json``, an object of names and folders
beside it. An installed package has no such folder, and so no names.
"""

import json
from pathlib import Path
from typing import Final

ASSETS: Final = Path(__file__).parents[2] / "assets"
LIST: Final = "pipelines.json"


def find_embedded(assets: Path) -> dict[str, Path]:
    """The folders of all pipelines that are listed in a folder's subfolders, by name."""
    return {
        name: listed.parent / folder
        for listed in sorted(assets.glob(f"*/{LIST}"))
        for name, folder in json.loads(listed.read_text()).items()
    }


EMBEDDED: Final = find_embedded(ASSETS)
"""Pipelines that ``load_pipeline`` knows by name, besides folders and the hub."""
