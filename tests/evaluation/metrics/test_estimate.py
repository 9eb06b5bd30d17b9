"""Means, deviations and intervals against what statistics says."""

import numpy as np
import pytest

from evaluation.metrics.bootstrap import bootstrap_interval
from evaluation.metrics.estimate import Ratio, mean, of_ratios, over_seeds


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=400)
    low, high = bootstrap_interval(mean(values).value, len(values))
    error = values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    draws = np.random.default_rng(1).binomial(1, 0.7, size=(150, 60)).astype(float)
    intervals = [bootstrap_interval(mean(sample).value, 60) for sample in draws]
    covered = np.mean([low <= 0.7 <= high for low, high in intervals])
    assert 0.88 <= covered <= 1


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
    # Two seeds that cancel each other out for each prompt: between prompts nothing varies.
    values = np.random.default_rng(0).normal(size=50)
    estimate = of_ratios([{"": mean(values)}, {"": mean(-values)}], None)
    assert estimate.value == pytest.approx(0, abs=1e-12)
    assert estimate.interval == pytest.approx((0, 0), abs=1e-12)
    assert estimate.seeds == pytest.approx([values.mean(), -values.mean()])


def test_differences_are_those_of_the_same_prompts() -> None:
    # Prompts differ much, models little and always alike: the values overlap, the difference not.
    values = np.random.default_rng(0).normal(scale=10, size=40)
    better = values + np.random.default_rng(1).normal(0.5, 0.1, size=40)
    estimate = of_ratios([{"": mean(better)}], [{"": mean(values)}])
    assert estimate.interval is not None
    assert estimate.difference is not None
    assert estimate.interval[0] < values.mean() < estimate.interval[1]
    assert 0.4 < estimate.difference[0] < 0.5 < estimate.difference[1] < 0.6


def test_a_single_prompt_has_no_interval() -> None:
    seeds = [{"": mean(np.array([0.5]))}, {"": mean(np.array([0.7]))}]
    full = [{"": mean(np.array([0.9]))}] * 2
    found = of_ratios(seeds, full)
    assert found.value == pytest.approx(0.6)
    assert found.std is not None
    assert found.interval is None
    assert found.difference is None
