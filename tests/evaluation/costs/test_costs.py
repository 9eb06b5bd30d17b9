"""Seconds and bytes of a call."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dgq.storage.checkpoint import load_quantized_unet
from evaluation.costs.latency import time_calls
from evaluation.costs.memory import LiveBytes, peak_bytes
from tests.quantized_models import Calibrated


class Sleeper(nn.Module):
    """Takes as long as it is told."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x


def test_latency_is_the_median_of_each() -> None:
    unets = {"fast": Sleeper(0.002), "slow": Sleeper(0.03)}
    seconds = time_calls(unets, ((torch.zeros(1),), {}), 3, "cpu")
    assert 0.002 <= seconds["fast"] < 0.03 <= seconds["slow"] < 0.3


def test_peak_memory_of_layers_equals_a_count_by_hand() -> None:
    network = nn.Sequential(nn.Linear(8, 64, bias=False), nn.Linear(64, 16, bias=False))
    x = torch.zeros(10, 8)
    # The first output lives until the second layer has made its own; then it is freed.
    assert peak_bytes(lambda: network(x), "cpu") == 4 * 10 * (64 + 16)


def test_a_call_with_integer_products_has_a_peak_too(
    calibrated_as: Callable[[str], Calibrated],
) -> None:
    made = calibrated_as("exponents")
    unet = load_quantized_unet(made.folder)
    assert peak_bytes(lambda: unet(**made.call), "cpu") > made.output.numel() * 4


def test_views_and_work_in_place_take_nothing() -> None:
    x = torch.zeros(100)
    with LiveBytes() as live:
        x.view(10, 10).t().add_(1)
        assert live.peak == 0
        y = x + 1
        z = y[:50]
        assert live.current == 400
        del y
        assert live.current == 400  # the view holds it
        del z
    assert live.current == 0
    assert live.peak == 400


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_kept_counts_until_it_goes(kept: bool) -> None:
    with LiveBytes() as live:
        parts = []
        for _ in range(3):
            part = torch.ones(25)
            if kept:
                parts.append(part)
            del part
    assert live.peak == (300 if kept else 100)
