"""Groups: spread by loops, k-means by brute force, and what must hold for any ranges."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq.math.grouping import cluster_means, farthest_points, group_ranges, kmeans, spread


def random_ranges(steps: int, members: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(steps, members, generator=generator)
    return low, low + torch.rand(steps, members, generator=generator) * 3


def squared_distances(points: np.ndarray, labels: tuple[int, ...]) -> float:
    """Sum of squared distances to the means of the clusters."""
    chosen = np.array(labels)
    clusters = [points[chosen == label] for label in set(labels)]
    return sum(float(((c - c.mean(0)) ** 2).sum()) for c in clusters)


def test_spread_equals_the_formula_summed_over_steps() -> None:
    low, high = random_ranges(3, 5)
    expected = sum(
        (max(h) - min(h)) + (max(lo) - min(lo))
        for lo, h in zip(low.tolist(), high.tolist(), strict=True)
    )
    assert spread(low, high).item() == pytest.approx(expected, rel=1e-6)


def test_spread_of_equal_ranges_is_zero() -> None:
    assert spread(torch.full((2, 4), -3.0), torch.full((2, 4), 5.0)) == 0


def test_one_group_is_per_tensor() -> None:
    low, high = random_ranges(4, 9)
    groups = group_ranges(low, high, 1)
    assert (groups.member_group == 0).all()
    assert torch.equal(groups.low[:, 0], low.min(1).values)
    assert torch.equal(groups.high[:, 0], high.max(1).values)


@pytest.mark.parametrize("n_groups", [9, 10, 1000])
def test_as_many_groups_as_members_is_per_member_exactly(n_groups: int) -> None:
    low, high = random_ranges(4, 9)
    groups = group_ranges(low, high, n_groups)
    assert groups.low.shape == (4, 9)
    assert torch.equal(groups.low.gather(1, groups.member_group), low)
    assert torch.equal(groups.high.gather(1, groups.member_group), high)


def test_equal_members_share_a_group_and_surplus_groups_are_zero() -> None:
    low = torch.tensor([[-1.0, -1.0, -5.0, -5.0]])
    high = torch.tensor([[1.0, 1.0, 2.0, 2.0]])
    groups = group_ranges(low, high, 3)
    index = groups.member_group[0].tolist()
    assert index[0] == index[1] != index[2] == index[3]
    ranges = set(zip(groups.low[0].tolist(), groups.high[0].tolist(), strict=True))
    assert ranges == {(-1, 1), (-5, 2), (0, 0)}


@settings(max_examples=80, deadline=None)
@given(
    ranges=st.lists(
        st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(0, 1e3, width=32)),
        min_size=1,
        max_size=12,
    ),
    n_groups=st.integers(1, 14),
)
def test_a_group_spans_exactly_its_members(
    ranges: list[tuple[float, float]], n_groups: int
) -> None:
    low = torch.tensor([[lo for lo, _ in ranges]])
    high = low + torch.tensor([[width for _, width in ranges]])
    groups = group_ranges(low, high, n_groups)
    for group in range(groups.low.shape[1]):
        members = groups.member_group[0] == group
        if members.any():
            assert groups.low[0, group] == low[0, members].min()
            assert groups.high[0, group] == high[0, members].max()
    assert groups.low.shape[1] == min(n_groups, len(ranges))


@pytest.mark.parametrize("n_clusters", [2, 3])
def test_separated_clusters_are_found_as_brute_force_finds_them(n_clusters: int) -> None:
    generator = torch.Generator().manual_seed(1)
    centers = torch.tensor([[0.0, 0.0], [9.0, 1.0], [-2.0, 12.0]])[:n_clusters]
    members = torch.arange(7) % n_clusters
    points = centers[members] + 0.3 * torch.randn(7, 2, generator=generator)
    found = tuple(kmeans(points[None], n_clusters)[0].tolist())
    every = product(range(n_clusters), repeat=7)
    best = min(squared_distances(points.numpy(), labels) for labels in every)
    assert squared_distances(points.numpy(), found) == pytest.approx(best, rel=1e-6)


def test_seeds_are_the_point_nearest_the_mean_and_then_always_the_farthest() -> None:
    points = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0)) + 5
    seeds = farthest_points(points, 6)
    for own, found in zip(points.double().numpy(), seeds.double().numpy(), strict=True):
        expected = [min(own, key=lambda p: np.linalg.norm(p - own.mean(0)))]
        while len(expected) < 6:
            far = max(own, key=lambda p: min(np.linalg.norm(p - e) for e in expected))
            expected.append(far)
        np.testing.assert_array_equal(found, expected)


def test_a_centre_is_the_mean_of_its_points_and_stays_if_it_has_none() -> None:
    points = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [8.0, 7.0]]])
    centers = torch.tensor([[[0.0, 0.0], [9.0, 9.0], [-4.0, 5.0]]])
    found = cluster_means(points, torch.tensor([[0, 0, 1]]), centers)
    assert found.tolist() == [[[2, 4], [8, 7], [-4, 5]]]


def test_result_is_a_fixed_point_of_lloyds_algorithm() -> None:
    points = torch.randn(1, 40, 2, generator=torch.Generator().manual_seed(2))
    index = kmeans(points, 5)[0].numpy()
    means = np.stack([points[0].numpy()[index == k].mean(0) for k in range(5)])
    distances = ((points[0].numpy()[:, None] - means) ** 2).sum(-1)
    np.testing.assert_array_equal(distances.argmin(1), index)


def test_an_outlier_gets_a_group_of_its_own() -> None:
    low, high = random_ranges(1, 20)
    high[0, 7] = 100.0
    index = group_ranges(low, high, 3).member_group[0]
    assert (index == index[7]).sum() == 1


def test_sets_are_clustered_independently() -> None:
    points = torch.randn(3, 15, 2, generator=torch.Generator().manual_seed(4))
    together = kmeans(points, 4)
    apart = torch.cat([kmeans(points[i : i + 1], 4) for i in range(3)])
    assert torch.equal(together, apart)
