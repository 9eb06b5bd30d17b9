"""The card of a model in a folder."""

from pathlib import Path

from dgq.hub.card import card_text
from dgq.hub.evidence import evidence_beside
from dgq.hub.facts import UNKNOWN_REPO, facts_of
from dgq.hub.names import checked_id, hub_id
from dgq.pipelines.files import INDEX
from dgq.storage.checkpoint import find_model
from dgq.storage.empty_unet import empty_quantized_unet
from dgq.storage.first_formats import FirstFiles


def model_card(
    folder: str | Path, base_model: str | None = None, repo_id: str | None = None
) -> str:
    """The text of a README.md for the hub, from what a model holds and what was measured of it.

    Args:
        folder: folder of a finished run, of a quantized model, or of a pipeline with one.
        base_model: hub id of the pipeline that it was made from; by default the one that the model
            names, if that is an id.
        repo_id: hub id where it will be published, for the lines that load it.

    Raises:
        DGQError: if the model is damaged, or an id is invalid.
    """
    files = find_model(folder)
    manifest, tensors = files.read()  # which verifies them
    tensors.clear()
    unet = empty_quantized_unet(manifest)
    given = None if base_model is None else checked_id(base_model, "the base model")
    repo = UNKNOWN_REPO if repo_id is None else checked_id(repo_id, "the repository")
    loads = "earlier" if isinstance(files, FirstFiles) else "unet"
    return card_text(
        facts_of(
            files,
            unet,
            evidence_beside(files.folder, manifest.sha256),
            repo_id=repo,
            base_model=given or hub_id(manifest.pipeline),
            loads="pipeline" if (Path(folder) / INDEX).is_file() else loads,
        )
    )
