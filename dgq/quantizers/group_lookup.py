"""Scale and zero point of each element of an activation, from those of its group."""

from typing import NamedTuple

from torch import Tensor

from dgq.unet.calls import SamplerCalls
from dgq.unet.positions import pixel_index, word_index


class GroupTable(NamedTuple):
    """Parameters of groups.

    Args:
        scale: ``[steps, groups]``, or one row for all steps.
        zero_point: like ``scale``.
        group_index: ``[steps, members]``, the group of each member of the grouped axis.
        on_pixels: members are pixels (tokens) rather than channels.
        of_text: tokens are words, which do not move when the latents change their size.
    """

    scale: Tensor
    zero_point: Tensor
    group_index: Tensor
    on_pixels: bool
    of_text: bool


def element_parameters(x: Tensor, table: GroupTable, calls: SamplerCalls) -> tuple[Tensor, Tensor]:
    """Scale and zero point of every element at the step of the call, broadcastable to ``x``.

    Args:
        x: ``[batch, channels, height, width]``, ``[batch, tokens, channels]`` or 2-D.
        table: parameters for all steps.
        calls: calls of the UNet, with the current one.
    """
    step = row_of_step(table.scale, calls)
    index = _members_of(x, table, step, calls)
    shape = _broadcast_shape(x, index, table.on_pixels)
    scale, zero_point = (t[step].gather(1, index) for t in (table.scale, table.zero_point))
    return scale.view(shape), zero_point.view(shape)


def row_of_step(table: Tensor, calls: SamplerCalls) -> Tensor:
    """Row of a table ``[steps, ...]`` or ``[1, ...]`` for each sample, ``[1]`` or ``[batch]``."""
    step = calls.step if table.shape[0] > 1 else calls.step.new_zeros(1)
    return step.to(table.device)


def _members_of(x: Tensor, table: GroupTable, step: Tensor, calls: SamplerCalls) -> Tensor:
    """Group of each member of the grouped axis, ``[1 or batch, members]``."""
    index = table.group_index[step].long()
    if index.shape[1] == 1 or not table.on_pixels:
        return index
    n_pixels = x.shape[2] * x.shape[3] if x.ndim == 4 else x.shape[1]
    if table.of_text:
        if n_pixels == index.shape[1]:
            return index
        return index[:, word_index(n_pixels, index.shape[1]).to(index.device)]
    moved = pixel_index(n_pixels, index.shape[1], calls.current_size, calls.latent_size)
    return index if moved is None else index[:, moved.to(index.device)]


def _broadcast_shape(x: Tensor, index: Tensor, on_pixels: bool) -> list[int]:
    shape = [1] * x.ndim
    shape[0] = index.shape[0]
    if index.shape[1] == 1:
        return shape
    if x.ndim == 4 and on_pixels:
        return [*shape[:2], x.shape[2], x.shape[3]]
    shape[1 if x.ndim == 4 or on_pixels else -1] = index.shape[1]
    return shape
