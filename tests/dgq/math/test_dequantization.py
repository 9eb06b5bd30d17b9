"""Weights from packed codes against the formula, in one block and in many."""

import numpy as np
import pytest
import torch

from dgq.math import cached_rows
from dgq.math.dequantization import dequantize, input_factors
from dgq.math.packing import pack_codes


def test_factors_are_powers_of_two_of_each_group_and_the_last_may_be_short() -> None:
    exponent = torch.tensor([[0, 1, 2], [3, 0, 7]], dtype=torch.uint8)
    expected = [[1, 1, 0.5, 0.5, 0.25], [0.125, 0.125, 1, 1, 1 / 128]]
    assert input_factors(exponent, 2, 5).tolist() == expected


@pytest.mark.parametrize("n_bits", [3, 4, 8])
@pytest.mark.parametrize("elements", [1, 40, 2**18])
@pytest.mark.parametrize("grouped", [False, True])
def test_rows_at_a_time_change_nothing(
    n_bits: int, elements: int, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_rows, "CACHED_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2**n_bits, (7, 13), generator=generator, dtype=torch.uint8)
    scale = torch.rand(7, generator=generator) + 0.1
    zero_point = torch.randint(0, 2**n_bits, (7,), generator=generator).float()
    exponent = torch.randint(0, 4, (7, 4), generator=generator, dtype=torch.uint8)
    factor = 2.0 ** -exponent.numpy().astype(np.float32).repeat(4, 1)[:, :13]
    expected = (codes.numpy() - zero_point.numpy()[:, None]) * scale.numpy()[:, None]
    found = dequantize(
        pack_codes(codes, n_bits), scale, zero_point, n_bits, 13, exponent if grouped else None, 4
    )
    np.testing.assert_array_equal(found.numpy(), expected * factor if grouped else expected)


@pytest.mark.parametrize("elements", [1, 2**18])
@pytest.mark.parametrize("rows", [1, 7])
def test_weights_are_divided_by_the_multiples_that_they_absorbed(
    rows: int, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_rows, "CACHED_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (7, 6), generator=generator, dtype=torch.uint8)
    scale, zero_point = torch.rand(7, generator=generator) + 0.1, torch.full((7,), 128.0)
    multiples = torch.randint(1, 17, (rows, 6), generator=generator, dtype=torch.int16)
    plain = dequantize(codes, scale, zero_point, 8, 6)
    found = dequantize(codes, scale, zero_point, 8, 6, absorbed=multiples)
    np.testing.assert_array_equal(found.numpy(), plain.numpy() / multiples.numpy().astype("f4"))


@torch.no_grad()
@pytest.mark.parametrize("n", [72, 80], ids=["the last group is short", "whole groups"])
def test_it_is_compiled_exactly(n: int) -> None:
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    codes = pack_codes(torch.randint(0, 16, (64, n), generator=generator).to(torch.uint8), 4)
    scale, zero_point = torch.rand(64, generator=generator) + 0.1, torch.full((64,), 8.0)
    exponent = torch.randint(0, 3, (64, 5), generator=generator, dtype=torch.uint8)
    given = (codes, scale, zero_point, 4, n, exponent, 16)
    assert torch.equal(torch.compile(dequantize, fullgraph=True)(*given), dequantize(*given))


def test_an_accelerator_takes_all_rows_at_once() -> None:
    assert cached_rows.cached_rows(1280, 11520, torch.device("cuda")) == 1280
    assert cached_rows.cached_rows(1280, 11520, torch.device("cpu")) == 22
    assert cached_rows.cached_rows(3, 2**20, torch.device("cpu")) == 1
