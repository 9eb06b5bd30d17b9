"""Zeros around an image need a code in every channel and at every step."""

import pytest
import torch

from dgq.inference.channel_input import ChannelInput
from dgq.unet.calls import SamplerCalls


@pytest.mark.parametrize(
    ("zero_point", "expected"),
    [
        ([[0, 63], [3, 4]], True),
        ([[0, 63], [3, -1]], False),
        ([[0, 64], [3, 4]], False),
        ([[-5, 70], [-1, 64]], False),
    ],
)
def test_zeros_have_a_code_if_every_zero_point_is_one(
    zero_point: list[list[int]], expected: bool
) -> None:
    quantizer = ChannelInput(6, SamplerCalls((2.0, 1.0), (8, 8)), 2)
    quantizer.store("zero_point", torch.tensor(zero_point, dtype=torch.int16))
    assert quantizer.has_code_of_zero() == expected
