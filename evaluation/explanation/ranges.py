"""Ranges of activations by channel and by pixel over the steps, with their assigned scales."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.quantizers.activation_quantizer import PIXEL
from dgq.storage.sealed_archive import read_checkpoint

CHECKPOINT = "last.ckpt"
OBSERVER = ".observer."


@dataclass(frozen=True)
class LayerRanges:
    """Observed ranges of one activation.

    Args:
        name: name of its quantizer's owner.
        channels: widths of the ranges, ``[steps, channels]``.
        pixels: the same by pixel or token, ``[steps, pixels]``; None where only the whole tensor
            was observed.
        axis: ``channels`` or ``pixels``: the members that share scales.
        shared: scale of each member, ``[steps, members]``, whole numbers from 0.
        kind: meaning of ``shared``: ``group``, or ``multiple`` for powers and multiples of the
            finest.
    """

    name: str
    channels: Tensor
    pixels: Tensor | None
    axis: str
    shared: Tensor
    kind: str

    @property
    def outlier_ratio(self) -> float:
        """The widest channel relative to the median one, averaged over the steps."""
        median = self.channels.median(1).values.clamp(min=1e-12)
        return float((self.channels.amax(1) / median).mean())

    def to_dict(self) -> dict[str, object]:
        """The numbers of the picture, in short."""
        return {
            "name": self.name,
            "outlier_ratio": self.outlier_ratio,
            "axis": self.axis,
            "kind": self.kind,
            "n_channels": self.channels.shape[1],
            "n_pixels": 0 if self.pixels is None else self.pixels.shape[1],
            "members_by_scale": torch.bincount(self.shared[0].long()).tolist(),
        }


def observed_ranges(run: Path) -> dict[str, LayerRanges]:
    """Activations of a run that were observed by channel, by the name of their owner.

    Raises:
        DGQError: if there is no checkpoint with ranges, or it is damaged.
    """
    file = run / CHECKPOINT
    if not file.is_file():
        raise DGQError(
            f"{run} has no {CHECKPOINT}, which holds the observed ranges: expected the folder of a "
            "run of `python train.py fit`"
        )
    state = read_checkpoint(file)["state_dict"]
    owners = {name.partition(OBSERVER)[0] for name in state if OBSERVER in name}
    found = {}
    for owner in sorted(owners):
        tensors = {n.removeprefix(f"{owner}."): t for n, t in state.items() if in_owner(n, owner)}
        if tensors["observer.channel_low"].shape[1] > 1:
            found[owner] = layer_ranges(owner, tensors)
    if not found:
        raise DGQError(f"{file} holds no ranges by channel: its activations are not quantized")
    return found


def in_owner(name: str, owner: str) -> bool:
    """Whether a tensor is one of a quantizer."""
    return name.startswith(f"{owner}.")


def layer_ranges(name: str, tensors: Mapping[str, Tensor]) -> LayerRanges:
    """The ranges of one quantizer, from its tensors."""
    channels = width(tensors, "channel")
    pixels = width(tensors, "pixel") if "observer.pixel_low" in tensors else None
    if "group_index" in tensors:
        on_pixels = int(tensors["axis"]) == PIXEL
        steps = (pixels if on_pixels and pixels is not None else channels).shape
        shared = tensors["group_index"].long().expand(steps)
        axis = "pixels" if on_pixels else "channels"
        return LayerRanges(name, channels, pixels, axis, shared, "group")
    factor = multiples_of(tensors).long().expand(channels.shape)
    return LayerRanges(name, channels, pixels, "channels", factor, "multiple")


def width(tensors: Mapping[str, Tensor], axis: str) -> Tensor:
    """High minus low, ``[steps, members]``; 0 at steps that were not observed."""
    found = tensors[f"observer.{axis}_high"] - tensors[f"observer.{axis}_low"]
    return found.clamp(min=0).nan_to_num(0, 0, 0)


def multiples_of(tensors: Mapping[str, Tensor]) -> Tensor:
    """Each channel's scale as a multiple of the finest one."""
    if "exponent" in tensors:
        exponent = tensors["exponent"].to(torch.int32)
        return 1 << (exponent.max() - exponent)
    return tensors.get("multiple", torch.ones(1, dtype=torch.int32))


def worst(ranges: Mapping[str, LayerRanges], n: int) -> list[LayerRanges]:
    """The activations with the largest outliers."""
    return sorted(ranges.values(), key=lambda r: r.outlier_ratio, reverse=True)[:n]


def chosen(ranges: Mapping[str, LayerRanges], names: Sequence[str]) -> list[LayerRanges]:
    """Activations with the given names of layers or attentions.

    Raises:
        DGQError: for a name that was not observed.
    """
    found = []
    for name in names:
        matching = [r for owner, r in ranges.items() if owner == name or in_owner(owner, name)]
        if not matching:
            raise DGQError(f"{name} has no observed ranges: expected one of {', '.join(ranges)}")
        found += matching
    return found
