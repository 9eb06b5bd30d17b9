"""Uploading a UNet: our model card replaces the one that diffusers writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from torch import nn

from dgq.hub.card import card_text
from dgq.hub.evidence import Evidence, evidence_beside
from dgq.hub.facts import facts_of
from dgq.hub.names import hub_id
from dgq.storage.model_files import ModelFiles

CARD_FILE = "README.md"


@dataclass(frozen=True)
class Origin:
    """What a UNet was loaded from.

    Args:
        place: a folder or an id; empty if unknown.
        sha256: hash of the model there.
    """

    place: str
    sha256: str

    def evidence(self) -> Evidence:
        """Measurements beside it; none if it is no local folder."""
        folder = Path(self.place)
        if not self.place or not folder.is_dir():
            return Evidence()
        return evidence_beside(folder, self.sha256)


def write_card(unet: nn.Module, folder: Path, repo_id: str, origin: Origin) -> None:
    """Replace the model card in a folder that is about to be uploaded; its header is kept.

    Args:
        unet: a quantized UNet.
        folder: folder with its files.
        repo_id: hub id that they are uploaded to.
        origin: what the UNet was loaded from.
    """
    file = folder / CARD_FILE
    header: dict[str, Any] = ModelCard.load(file).data.to_dict() if file.is_file() else {}
    files = ModelFiles(folder)
    stated = header.get("base_model")
    stated = hub_id(stated) if isinstance(stated, str) else None
    facts = facts_of(
        files,
        unet,
        origin.evidence(),
        repo_id=repo_id,
        base_model=hub_id(files.manifest().pipeline) or stated,
        header=header,
    )
    file.write_text(card_text(facts), encoding="utf-8")
