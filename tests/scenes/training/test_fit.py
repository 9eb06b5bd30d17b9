"""The one training: resumed exactly, averaged and logged as told."""

import dataclasses
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from scenes.training import callbacks
from scenes.training.batches import generator_of
from scenes.training.checkpoints import CHECKPOINT, read_average, snapshot_name
from scenes.training.fit import fit
from scenes.training.log import read_log
from scenes.training.module import Training, parameter_groups, rate_factor
from scenes.training.settings import Fit

FIT = Fit(steps=6, batch_size=4, learning_rate=1e-2, warmup_steps=2)
AVERAGED = dataclasses.replace(FIT, ema_decay=0.5, snapshots=(2, 4))


class Line(Training[nn.Linear]):
    """Learns zeros; may be killed at a step."""

    killed_at: int | None = None

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        if self.global_step == self.killed_at:
            raise InterruptedError
        return self.network(batch).square().mean(), {"batch": float(batch.sum())}


def draw(generator: torch.Generator) -> Tensor:
    return torch.randn(4, 3, generator=generator)


def line(settings: Fit, seed: int = 0) -> Line:
    torch.manual_seed(seed)
    return Line(nn.Linear(3, 3), settings)


def run(training: Line, folder: Path, resume: bool = False) -> nn.Linear:
    fit(training, draw, folder, "cpu", resume)
    return training.network


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "TIME_BETWEEN_CHECKPOINTS", timedelta(0))


def by_hand(settings: Fit) -> tuple[list[Tensor], list[Tensor]]:
    """The weights after each step, and their averages, without Lightning."""
    network = line(settings).network
    optimizer = torch.optim.AdamW(
        parameter_groups(list(network.parameters()), settings), betas=(0.9, settings.beta2)
    )
    after: list[Tensor] = []
    averages: list[Tensor] = []
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate_factor(step, settings)
        network(draw(generator_of(settings.seed, step))).square().mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        after.append(network.weight.detach().clone())
        decay = min(settings.ema_decay, (2 + step) / (11 + step)) if step else 0
        before = averages[-1] if averages else after[-1]
        averages.append(decay * before + (1 - decay) * after[-1])
    return after, averages


@pytest.mark.parametrize("settings", [FIT, AVERAGED])
def test_it_is_adam_with_clipped_gradients_and_an_average(settings: Fit, tmp_path: Path) -> None:
    after, averages = by_hand(settings)
    found = run(line(settings), tmp_path).weight
    assert torch.allclose(found, averages[-1], atol=1e-6)
    assert torch.allclose(found, after[-1], atol=1e-4) == (settings.ema_decay == 0)


@pytest.mark.parametrize("settings", [FIT, AVERAGED])
def test_resuming_gives_the_same_weights(settings: Fit, tmp_path: Path) -> None:
    whole = run(line(settings), tmp_path / "whole")
    killed = line(settings)
    killed.killed_at = 3
    with pytest.raises(InterruptedError):
        run(killed, tmp_path / "halves")
    state = torch.load(tmp_path / "halves" / CHECKPOINT, weights_only=True)
    assert state["global_step"] == 3
    resumed = run(line(settings, seed=1), tmp_path / "halves", resume=True)
    assert torch.equal(resumed.weight, whole.weight)
    logs = [read_log(tmp_path / name) for name in ("whole", "halves")]
    for lines in logs:
        assert [row["step"] for row in lines] == [1, 2, 3, 4, 5, 6]
        assert sorted(row.pop("seconds") for row in lines) != [0] * 6
    assert logs[0] == logs[1]
    assert logs[0][2]["batch"] == pytest.approx(float(draw(generator_of(0, 2)).sum()), rel=1e-4)
    assert {path.name for path in (tmp_path / "whole").glob("last*")} == {CHECKPOINT}


def test_a_complete_run_is_only_loaded(tmp_path: Path) -> None:
    first = run(line(FIT), tmp_path)
    second = line(FIT, seed=1)
    second.killed_at = 0
    assert torch.equal(run(second, tmp_path, resume=True).weight, first.weight)
    with pytest.raises(FileExistsError, match="--resume"):
        run(line(FIT), tmp_path)


def test_snapshots_and_the_checkpoint_hold_the_average(tmp_path: Path) -> None:
    found = run(line(AVERAGED), tmp_path)
    loaded = nn.Linear(3, 3)
    read_average(tmp_path / CHECKPOINT, loaded)
    assert torch.equal(loaded.weight, found.weight)
    _, averages = by_hand(AVERAGED)
    for step in AVERAGED.snapshots:
        snapshot = load_file(tmp_path / snapshot_name(step))
        assert snapshot.keys() == {"weight", "bias"}
        assert torch.allclose(snapshot["weight"].float(), averages[step - 1], atol=1e-3)
    assert len(list(tmp_path.glob("*.safetensors"))) == len(AVERAGED.snapshots)


def test_rates_rise_and_fall_to_zero() -> None:
    settings = dataclasses.replace(FIT, steps=100, warmup_steps=10)
    factors = [rate_factor(step, settings) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors.index(max(factors)) == 9
    assert factors[100] == pytest.approx(0)


def test_optimizers_take_the_settings() -> None:
    made: dict[str, Any] = line(dataclasses.replace(FIT, beta2=0.75)).configure_optimizers()
    assert made["optimizer"].param_groups[0]["betas"] == (0.9, 0.75)


def test_norms_and_biases_decay_only_if_told() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    parameters = list(module.parameters())
    for decays_norms, expected in ((False, [1, 3]), (True, [4, 0])):
        settings = dataclasses.replace(FIT, decays_norms=decays_norms, weight_decay=0.5)
        groups = parameter_groups(parameters, settings)
        assert [len(group["params"]) for group in groups] == expected
        assert [group["weight_decay"] for group in groups] == [0.5, 0.0]


def test_lines_of_a_log_are_json(tmp_path: Path) -> None:
    run(line(FIT), tmp_path)
    row = read_log(tmp_path)[0]
    assert json.loads(json.dumps(row)) == row
    assert next(iter(row)) == "step"
    assert {"loss", "lr", "grad_norm", "seconds", "batch"} <= row.keys()
