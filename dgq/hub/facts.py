"""What a model card is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dgq.hub.evidence import Evidence
from dgq.hub.names import publishable
from dgq.inspection.full_size import full_precision_bytes
from dgq.inspection.layers import Kind, kept_layers, layer_kinds
from dgq.storage.first_formats import FirstFiles
from dgq.storage.manifest import Manifest
from dgq.storage.model_files import ModelFiles

UNKNOWN_REPO = "OWNER/NAME"
UNKNOWN_PIPELINE = "PIPELINE"


@dataclass(frozen=True)
class Facts:
    """The facts that a model card is made from.

    Args:
        manifest: manifest of the model as published.
        kinds: kinds of its layers.
        kept: names of the layers in full precision.
        n_bytes: bytes of its files of weights.
        full_bytes: bytes of the UNet in full precision.
        evidence: what was measured.
        repo_id: where it is published.
        base_model: hub id of the pipeline that it was made from, if it has one.
        loads: how it is loaded: ``unet`` and ``pipeline`` by diffusers, ``earlier`` by dgq alone.
        header: further entries of the header, such as a licence.
    """

    manifest: Manifest
    kinds: Sequence[Kind]
    kept: Sequence[str]
    n_bytes: int
    full_bytes: int
    evidence: Evidence
    repo_id: str = UNKNOWN_REPO
    base_model: str | None = None
    loads: str = "unet"
    header: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pipeline(self) -> str:
        """Where the rest of the pipeline comes from, as a source that anybody can find."""
        return self.base_model or publishable(self.manifest.pipeline) or UNKNOWN_PIPELINE


def facts_of(
    files: ModelFiles | FirstFiles, unet: nn.Module, evidence: Evidence, **others: Any
) -> Facts:
    """Facts from a model's files and its UNet, which needs no tensors.

    Args:
        files: files of the model.
        unet: UNet of inference modules.
        evidence: what was measured.
        others: further fields of ``Facts``.
    """
    manifest = files.manifest()
    return Facts(
        manifest,
        layer_kinds(unet),
        list(kept_layers(unet)),
        files.size(),
        full_precision_bytes(manifest.unet_config),
        evidence,
        **others,
    )
