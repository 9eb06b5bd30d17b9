"""Seconds and bytes of a call."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from dgq.storage.checkpoint import load_quantized_unet
from evaluation.costs.latency import busy_machine, time_calls
from evaluation.costs.memory import LiveBytes, peak_of_call
from tests.quantized_models import Calibrated


class Timed(nn.Module):
    """Takes as long as it is told, on a clock of the test."""

    def __init__(self, seconds: Sequence[float], clock: list[float], calls: list[str]) -> None:
        super().__init__()
        self.seconds = iter(seconds)
        self.clock = clock
        self.calls = calls

    def forward(self, x: Tensor, name: str) -> Tensor:
        self.clock[0] += next(self.seconds)
        self.calls.append(name)
        return x


def test_latency_is_the_median_of_each_without_the_first_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, calls = [0.0], [""]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    # The first call lays out weights; one later call was disturbed.
    unets = {
        "fast": Timed([100.0, 1.0, 9.0, 2.0], clock, calls),
        "slow": Timed([500.0, 30.0, 10.0, 20.0], clock, calls),
    }
    seconds = time_calls(unets, ((torch.zeros(1), "call"), {}), 3, "cpu")
    assert seconds == {"fast": 2.0, "slow": 20.0}
    assert len(calls) == 1 + 2 * 4
    assert [next(unet.seconds, None) for unet in unets.values()] == [None, None]


@pytest.mark.parametrize(("load", "n_notes"), [(0.0, 0), (6.0, 0), (6.5, 1)])
def test_a_busy_machine_is_noted(
    load: float, n_notes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("psutil.cpu_count", lambda: 4)
    notes = list(busy_machine())
    assert len(notes) == n_notes
    assert all("load 6.5 with 4 CPUs" in note for note in notes)


def test_models_take_turns() -> None:
    calls = [""]
    unets = {name: Timed([0.0] * 3, [0.0], calls) for name in ("a", "b")}
    for name, unet in unets.items():
        unet.register_forward_pre_hook(lambda _unet, args, name=name: (args[0], name))
    time_calls(unets, ((torch.zeros(1), ""), {}), 2, "cpu")
    assert calls[1:] == ["a", "b"] * 3


def test_peak_memory_of_layers_equals_a_count_by_hand() -> None:
    network = nn.Sequential(nn.Linear(8, 64, bias=False), nn.Linear(64, 16, bias=False))
    x = torch.zeros(10, 8)
    # The first output lives until the second layer has made its own; then it is freed.
    assert peak_of_call(lambda: network(x), "cpu") == 4 * 10 * (64 + 16)


def test_a_call_with_integer_products_has_a_peak_too(
    calibrated_as: Callable[[str], Calibrated],
) -> None:
    made = calibrated_as("exponents")
    unet = load_quantized_unet(made.folder)
    assert peak_of_call(lambda: unet(**made.call), "cpu") > made.output.numel() * 4


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
