"""Means, deviations and intervals against what statistics says."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from evaluation.metrics.bootstrap import FEWEST, bootstrap_interval, tail
from evaluation.metrics.estimate import Ratio, mean, of_ratios, over_seeds


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=400)
    low, high = bootstrap_interval(mean(values).value, len(values))
    error = values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


@pytest.mark.parametrize("n", [FEWEST, 16, 60])
def test_intervals_cover_the_truth_as_often_as_they_say(n: int) -> None:
    # Percentiles without the wider tail cover 90 % of the time for 8 prompts, 92 % for 16.
    draws = np.random.default_rng(1).normal(size=(500, n))
    intervals = [bootstrap_interval(lambda w, x=sample: w @ x / n, n) for sample in draws]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.93 <= covered <= 0.97


def test_intervals_of_shares_cover_the_truth_as_often_as_they_say() -> None:
    draws = np.random.default_rng(1).binomial(1, 0.7, size=(300, 60)).astype(float)
    intervals = [bootstrap_interval(lambda w, x=sample: w @ x / 60, 60) for sample in draws]
    covered = np.mean([low <= 0.7 <= high for low, high in intervals])
    assert 0.92 <= covered <= 0.98


@pytest.mark.parametrize(("n", "students"), [(8, 2.3646), (16, 2.1314), (256, 1.9693)])
def test_the_interval_of_a_mean_is_as_wide_as_students(n: int, students: float) -> None:
    # Resampled means vary as if the sum of squares were divided by n, not by n - 1.
    deviations = -NormalDist().inv_cdf(tail(n)) * math.sqrt((n - 1) / n)
    assert deviations == pytest.approx(students, abs=1e-4)


def test_the_tail_of_very_many_prompts_is_that_of_percentiles() -> None:
    assert tail(10**6) == pytest.approx(0.025, rel=1e-4)


def test_intervals_repeat_themselves_and_shrink_to_what_does_not_vary() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_interval(mean(values).value, 30) == bootstrap_interval(mean(values).value, 30)
    assert bootstrap_interval(mean(np.full(9, 2.0)).value, 9) == pytest.approx((2, 2))


def test_over_seeds() -> None:
    estimate = over_seeds([1.0, 2.0, 6.0])
    assert estimate.value == 3
    assert estimate.std == pytest.approx(7**0.5)
    assert estimate.seeds == [1, 2, 6]
    assert over_seeds([4.0]).std is None


def test_ratios_are_sums_over_sums() -> None:
    ratio = Ratio(np.array([1.0, 0.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    assert ratio.value() == pytest.approx(4 / 6)
    assert ratio.value(np.array([2.0, 1.0, 0.0])) == pytest.approx(2 / 4)
    assert np.isnan(ratio.value(np.zeros(3)))


def test_prompts_are_drawn_with_their_images_of_all_seeds() -> None:
    # Two seeds that cancel each other out for each prompt: between prompts little varies.
    values = np.random.default_rng(0).normal(size=50)
    slightly = np.random.default_rng(1).normal(scale=1e-3, size=50)
    estimate = of_ratios([{"": mean(values)}, {"": mean(slightly - values)}], None)
    expected = bootstrap_interval(mean(slightly / 2).value, 50)
    assert estimate.interval == pytest.approx(expected, abs=1e-12)
    assert estimate.seeds == pytest.approx([values.mean(), (slightly - values).mean()])


def test_differences_are_those_of_the_same_prompts() -> None:
    # Prompts differ much, models little and always alike: the values overlap, the difference not.
    values = np.random.default_rng(0).normal(scale=10, size=40)
    better = values + np.random.default_rng(1).normal(0.5, 0.1, size=40)
    estimate = of_ratios([{"": mean(better)}], [{"": mean(values)}])
    assert estimate.interval is not None
    assert estimate.difference is not None
    assert estimate.interval[0] < values.mean() < estimate.interval[1]
    assert 0.4 < estimate.difference[0] < 0.5 < estimate.difference[1] < 0.6


@pytest.mark.parametrize("n", [1, 2, FEWEST - 1])
def test_few_prompts_have_no_interval(n: int) -> None:
    seeds = [{"": mean(np.linspace(0.4, 0.5, n))}, {"": mean(np.linspace(0.6, 0.7, n))}]
    full = [{"": mean(np.linspace(0.8, 0.9, n))}] * 2
    found = of_ratios(seeds, full)
    assert found.value == pytest.approx(0.5 if n == 1 else 0.55)
    assert found.std is not None
    assert found.interval is None
    assert found.difference is None


def test_images_that_all_score_alike_have_no_interval_but_a_difference() -> None:
    # 20 of 20 right in full precision and none quantized: no chance.
    found = of_ratios([{"": mean(np.zeros(20))}], [{"": mean(np.ones(20))}])
    assert found.interval is None
    assert found.difference == pytest.approx((-1, -1))
    assert of_ratios([{"": mean(np.full(20, 0.95))}], None).interval is None
