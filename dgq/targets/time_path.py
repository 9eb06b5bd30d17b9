"""The time embedding and all its projections as one target (TFMQ-DM, arXiv 2311.16503)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from dgq.targets.target import Target
from dgq.unet.quantize import layers_to_quantize

EMBEDDINGS = ("time_embedding", "class_embedding", "add_embedding")
PROJECTION = "time_emb_proj"


@dataclass(frozen=True)
class TimePath(Target):
    """Everything that a UNet computes from the timestep alone.

    Its output is the concatenation of all resnets' projections.

    Args:
        unet: the UNet with these modules.
        projections: resnets with a projection, in the order of the output.
    """

    unet: UNet2DConditionModel
    projections: tuple[ResnetBlock2D, ...]

    @property
    def entrance(self) -> nn.Module:
        """The UNet: passes are suspended before they start."""
        unet: nn.Module = self.unet
        return unet

    @property
    def runs_in_pass(self) -> bool:
        """False: the projections are spread over the UNet."""
        return False

    def parts(self) -> Iterator[nn.Module]:
        """Embeddings and projections."""
        embeddings = (getattr(self.unet, name, None) for name in EMBEDDINGS)
        for embedding in embeddings:
            if embedding is not None:
                yield from embedding.modules()
        for resnet in self.projections:
            yield from resnet.get_submodule(PROJECTION).modules()

    def run(self, *args: Any, **kwargs: Any) -> Tensor:
        """``[batch, channels of all projections]`` of a call of the UNet."""
        embedding = embedding_of(self.unet, *args, **kwargs)
        return torch.cat([projected(resnet, embedding) for resnet in self.projections], dim=1)


def find_time_path(
    unet: nn.Module, keep: Sequence[str]
) -> tuple[dict[str, Target], frozenset[str]]:
    """The time path as a target, if any of it is quantized, and names of the layers it learns.

    Args:
        unet: stock or quantized.
        keep: patterns of the layers that stay in full precision.
    """
    names = frozenset(n for n in layers_to_quantize(unet, keep) if lies_on_path(n))
    if not names:
        return {}, names
    resnets = (m for m in unet.modules() if isinstance(m, ResnetBlock2D))
    projections = tuple(r for r in resnets if r.time_emb_proj is not None)
    return {"time_path": TimePath(cast(UNet2DConditionModel, unet), projections)}, names


def lies_on_path(name: str) -> bool:
    """Whether a layer, given by name, depends on the timestep alone."""
    return name.partition(".")[0] in EMBEDDINGS or name.rpartition(".")[2] == PROJECTION


def embedding_of(
    unet: UNet2DConditionModel,
    sample: Tensor,
    timestep: Tensor | float,
    encoder_hidden_states: Tensor,
    class_labels: Tensor | None = None,
    timestep_cond: Tensor | None = None,
    added_cond_kwargs: dict[str, Any] | None = None,
    **_others: Any,
) -> Tensor:
    """The ``temb`` argument of a UNet's resnets, for arguments of the UNet.

    Computed as at the start of ``UNet2DConditionModel.forward``.
    """
    embedding = unet.time_embedding(unet.get_time_embed(sample, timestep), timestep_cond)
    label = unet.get_class_embed(sample, class_labels)
    if label is not None:
        joined = unet.config["class_embeddings_concat"]
        embedding = torch.cat([embedding, label], dim=-1) if joined else embedding + label
    further = unet.get_aug_embed(embedding, encoder_hidden_states, added_cond_kwargs or {})
    if further is not None:
        embedding = embedding + further
    result: Tensor = embedding if unet.time_embed_act is None else unet.time_embed_act(embedding)
    return result


def projected(resnet: ResnetBlock2D, embedding: Tensor) -> Tensor:
    """A resnet's projection of the embedding, ``[batch, channels]``."""
    activated = embedding if resnet.skip_time_act else resnet.nonlinearity(embedding)
    output: Tensor = resnet.get_submodule(PROJECTION)(activated)
    return output
