"""The card of a model in a folder."""

from pathlib import Path

from dgq.checkpoint import empty_quantized_unet, find_model
from dgq.first_formats import FirstFiles
from dgq.hub.card import UNKNOWN_REPO, Facts, card_text
from dgq.hub.evidence import evidence_beside
from dgq.hub.names import checked_id, hub_id
from dgq.inspection.full_size import full_precision_bytes
from dgq.inspection.layers import kept_layers, layer_kinds
from dgq.pipeline_files import INDEX


def model_card(
    folder: str | Path, base_model: str | None = None, repo_id: str | None = None
) -> str:
    """The text of a README.md for the hub, from what a model holds and what was measured of it.

    Args:
        folder: of a finished run, of a quantized model, or of a pipeline with one.
        base_model: id of the pipeline on the hub that it was made from; by default the one that
            the model names, where that is an id.
        repo_id: where it will be published, for the lines that load it.

    Raises:
        DGQError: if the model is damaged, or an id is none.
    """
    files = find_model(folder)
    manifest, tensors = files.read()  # which verifies them
    tensors.clear()
    unet = empty_quantized_unet(manifest)
    given = None if base_model is None else checked_id(base_model, "the base model")
    repo = UNKNOWN_REPO if repo_id is None else checked_id(repo_id, "the repository")
    loads = "earlier" if isinstance(files, FirstFiles) else "unet"
    return card_text(
        Facts(
            manifest=manifest,
            kinds=layer_kinds(unet),
            kept=list(kept_layers(unet)),
            n_bytes=files.size(),
            full_bytes=full_precision_bytes(manifest.unet_config),
            evidence=evidence_beside(files.folder, manifest.sha256),
            repo_id=repo,
            base_model=given or hub_id(manifest.pipeline),
            loads="pipeline" if (Path(folder) / INDEX).is_file() else loads,
        )
    )
