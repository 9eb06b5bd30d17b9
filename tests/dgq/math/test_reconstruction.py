"""Losses and ratios against numpy."""

import numpy as np
import pytest
import torch

from dgq.math.reconstruction import (
    decibels,
    noise_and_signal,
    reconstruction_loss,
    relative_error,
    sqnr_db,
)


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 5, 3, 4), 1), ((2, 7, 5), 2), ((4, 6), 1)], ids=["nchw", "ntc", "nc"]
)
def test_loss_sums_over_features_and_averages_the_rest(shape: tuple[int, ...], axis: int) -> None:
    a, b = torch.randn(shape), torch.randn(shape)
    expected = ((a.numpy() - b.numpy()) ** 2).sum(axis).mean()
    assert reconstruction_loss(a, b).item() == pytest.approx(float(expected), rel=1e-5)


def test_relative_error_and_sqnr_are_two_views_of_one_ratio() -> None:
    reference = torch.randn(3, 4)
    output = reference + 0.1 * torch.randn(3, 4)
    noise, signal = (output - reference).numpy(), reference.numpy()
    ratio = float((noise**2).sum() / (signal**2).sum())
    assert relative_error(output, reference).item() == pytest.approx(ratio, rel=1e-5)
    found = decibels(*noise_and_signal(output, reference).tolist())
    assert sqnr_db(output, reference).item() == pytest.approx(-10 * np.log10(ratio), rel=1e-5)
    assert found == pytest.approx(-10 * np.log10(ratio), rel=1e-5)


def test_predicting_zero_is_an_error_of_one() -> None:
    reference = torch.randn(5)
    assert relative_error(torch.zeros(5), reference) == 1
    assert relative_error(reference, reference) == 0


def test_a_reference_of_zeros_is_no_division_by_zero() -> None:
    zeros = torch.zeros(5)
    assert relative_error(zeros, zeros) == 0
    assert relative_error(zeros + 1, zeros) > 1e9


def test_energies_of_half_precision_are_summed_in_float32() -> None:
    reference = torch.full((1000,), 300.0, dtype=torch.float16)
    assert noise_and_signal(0.5 * reference, reference).tolist() == [2.25e7, 9e7]


def test_decibels_are_of_noise_and_then_signal() -> None:
    assert decibels(1.0, 100.0) == pytest.approx(20)
    assert decibels(0.0, 3.0) == pytest.approx(200)
    assert decibels(1.0, 0.0) == pytest.approx(-200)
