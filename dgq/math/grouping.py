"""Distribution-aware groups: which channels (or pixels) share a scale (paper, section 4.1)."""

from typing import NamedTuple

import torch
from torch import Tensor

N_ITERATIONS = 20


class Groups(NamedTuple):
    """Members of an axis assigned to groups, for each step.

    Args:
        member_group: ``[steps, members]``, the group of each member.
        low: ``[steps, n_groups]``, the least minimum of a group's members; 0 for an empty group.
        high: ``[steps, n_groups]``, the largest maximum.
    """

    member_group: Tensor
    low: Tensor
    high: Tensor


def spread(low: Tensor, high: Tensor) -> Tensor:
    """How much the ranges of an axis' members differ from each other.

    ``(max of maxima - min of maxima) + (max of minima - min of minima)``, summed over the steps, so
    that one axis is chosen per layer.

    Args:
        low: ``[steps, members]``, minima.
        high: ``[steps, members]``, maxima.

    Returns:
        0-d tensor.
    """
    per_step = (high.amax(1) - high.amin(1)) + (low.amax(1) - low.amin(1))
    return per_step.sum()


def group_ranges(low: Tensor, high: Tensor, n_groups: int) -> Groups:
    """Group members with similar ranges: k-means on the points ``(minimum, maximum)``.

    One group means per-tensor, as many groups as members means per-member.

    Args:
        low: ``[steps, members]``, finite minima.
        high: ``[steps, members]``, finite maxima.
        n_groups: at least 1; more groups than members are cut to the number of members.
    """
    n_members = low.shape[1]
    n_groups = min(n_groups, n_members)
    if n_groups == n_members:
        # Clusters of one member each, without the quadratic search for them.
        return Groups(torch.arange(n_members, device=low.device).expand_as(low), low, high)
    index = kmeans(torch.stack([low, high], dim=-1), n_groups)
    shape = (low.shape[0], n_groups)
    group_low = low.new_full(shape, torch.inf).scatter_reduce(1, index, low, "amin")
    group_high = high.new_full(shape, -torch.inf).scatter_reduce(1, index, high, "amax")
    empty = group_low > group_high
    return Groups(index, group_low.masked_fill(empty, 0), group_high.masked_fill(empty, 0))


def kmeans(points: Tensor, n_clusters: int) -> Tensor:
    """Lloyd's algorithm from farthest-point seeds, for many point sets at once; deterministic.

    Args:
        points: ``[sets, members, dims]``.
        n_clusters: at most the number of members. Sets with fewer distinct points leave the
            surplus clusters empty.

    Returns:
        ``[sets, members]``, the cluster of each point.
    """
    centers = farthest_points(points, n_clusters)
    index = nearest(points, centers)
    for _ in range(N_ITERATIONS):
        centers = cluster_means(points, index, centers)
        moved = nearest(points, centers)
        if torch.equal(moved, index):
            break
        index = moved
    return index


def farthest_points(points: Tensor, n_points: int) -> Tensor:
    """Seeds ``[sets, n_points, dims]``: the point nearest the mean, then repeatedly the farthest.

    Outliers therefore get clusters of their own, and distinct points are never chosen twice.
    """
    distance = (points - points.mean(1, keepdim=True)).square().sum(-1)
    chosen = distance.argmin(1)
    rows = torch.arange(points.shape[0], device=points.device)
    seeds = [points[rows, chosen]]
    distance = torch.full_like(distance, torch.inf)
    for _ in range(n_points - 1):
        distance = torch.minimum(distance, (points - seeds[-1][:, None]).square().sum(-1))
        seeds.append(points[rows, distance.argmax(1)])
    return torch.stack(seeds, dim=1)


def nearest(points: Tensor, centers: Tensor) -> Tensor:
    """The nearest centre of each point, ``[sets, members]``; the first on ties."""
    return (points[:, :, None] - centers[:, None]).square().sum(-1).argmin(-1)


def cluster_means(points: Tensor, index: Tensor, centers: Tensor) -> Tensor:
    """Means of the clusters; an empty cluster keeps its centre."""
    expanded = index[..., None].expand_as(points)
    total = torch.zeros_like(centers).scatter_add(1, expanded, points)
    count = torch.zeros_like(centers).scatter_add(1, expanded, torch.ones_like(points))
    return torch.where(count > 0, total / count.clamp(min=1), centers)
