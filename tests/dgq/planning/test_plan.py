"""Plans agree with what calibrations then do, and are made without weights, files or a network."""

import json
import shutil
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data.calibration import CalibrationData
from dgq.errors import DGQError
from dgq.inference.execution import prepare_
from dgq.inspection.cost import count_operations
from dgq.inspection.layer_costs import LayerCost, layer_costs
from dgq.ops import cpu
from dgq.planning.duration import Work, estimated_seconds
from dgq.planning.empty import empty_call, empty_unet, local_folder
from dgq.planning.layers import planned_layers
from dgq.planning.plan import plan
from dgq.planning.rates import Rates, measure_rates
from dgq.planning.table import lines, minutes
from dgq.recipes import QDiffusion
from dgq.settings import LearningSettings, WaitingSettings, WeightSettings
from dgq.storage.checkpoint import load_quantized_unet, read_manifest
from dgq.storage.manifest import GenerationSettings
from lit import dry_run
from lit.cli import main
from tests.quantized_models import SETTINGS, TIMESTEPS, Calibrated
from tests.tiny_pipelines import LEARNING, fit_arguments, micro_unet
from tests.unet_zoo import CALIBRATE
from tests.unet_zoo import unet_call as random_call

WORK = Work(macs=10**9, weights=10**6, n_targets=10, recorded_rows=8, streamed_rows=6, batch_rows=4)
RATES = Rates(1e-10, 3e-10, 1e-8, 1e-7)


def configurations(pipeline: Path, folder: Path) -> Path:
    """A copy of a pipeline's JSON files alone."""
    ignored = shutil.ignore_patterns("*.safetensors", "*.txt", "*.bin")
    return Path(shutil.copytree(pipeline, folder / "configurations", ignore=ignored))


def micro_plan(folder: Path, recipe: Any = "w4a8", **options: Any) -> Any:
    generation = GenerationSettings(2, 3.0)
    return plan(str(folder), recipe, generation=generation, n_prompts=3, batch_size=4, **options)


def test_a_printed_plan_has_the_lines_of_a_dry_run(micro_folder: Path) -> None:
    made = micro_plan(micro_folder)
    printed = str(made).splitlines()
    assert [(line[:24].strip(), line[24:]) for line in printed] == list(lines(made))
    assert all(len(name) < 24 for name, _ in lines(made))


# What a calibration then does


def test_sizes_and_targets_are_those_of_a_finished_run(
    finished_work: Path, micro_folder: Path, tmp_path: Path
) -> None:
    run = finished_work / "run"
    settings = read_manifest(run).quantization
    folder = configurations(micro_folder, tmp_path)
    as_named = micro_plan(folder)
    assert as_named.shares_bits
    assert as_named.visits_network
    log = (run / "log.csv").read_text().splitlines()[1:]
    assert len(as_named.targets) == len(log) - 1 == 24
    assert log[-1].startswith("network,")
    found = micro_plan(folder, settings)  # the bits that were chosen
    model = run / "quantized/diffusion_pytorch_model.safetensors"
    header = int.from_bytes(model.read_bytes()[:8], "little") + 8
    recorded = next((finished_work / "cache").glob("*.safetensors"))
    assert found.n_bytes["model"] == pytest.approx(model.stat().st_size - header, rel=0.1)
    assert found.n_bytes["recorded calls"] == pytest.approx(
        recorded.stat().st_size, rel=0.02, abs=2000
    )
    state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"].values()
    held = sum(t.numel() * t.element_size() for t in state)
    # Attentions observe q, k and v as well, which are few in a UNet of usual size.
    assert 0.5 * held <= found.n_bytes["checkpoint"] <= 1.1 * held


@pytest.mark.parametrize("name", list(SETTINGS))
def test_layers_compute_as_planned(name: str, calibrated_as: Callable[[str], Calibrated]) -> None:
    if not cpu.products_are_exact():
        pytest.skip("no integer products here")
    unet = load_quantized_unet(calibrated_as(name).folder, "float")
    execution = prepare_(unet, "auto")
    empty = empty_unet(micro_unet().config)
    planned = planned_layers(empty, SETTINGS[name], TIMESTEPS, (8, 8))
    obstacles = Counter(layer.obstacle for layer in planned.values())
    assert obstacles.pop(None, 0) == execution.integer_layers
    assert obstacles == execution.float_layers


def test_each_kind_of_conditioning_has_an_empty_call() -> None:
    unknown = ("image", "text_image")  # no pipeline that calibrates has them
    for name, options in CALIBRATE.items():
        from tests.model_zoo import micro

        unet = micro(**options)
        if unet.config.addition_embed_type in unknown:
            continue
        empty = empty_unet(unet.config)
        call = empty_call(empty.config, 2, (8, 8))
        given = {k: getattr(v, "shape", None) for k, v in random_call(unet, 2, 1.0, 0).items()}
        assert given.keys() == call.keys(), name
        assert empty(**call)[0].shape == (2, 4, 8, 8), name


@torch.no_grad()
def test_costs_without_weights_are_those_with_them() -> None:
    unet = micro_unet()
    call = random_call(unet, 1, 1.0, 0)
    empty = empty_unet(unet.config)
    costs = layer_costs(empty, empty_call(empty.config, 1, (8, 8)))
    assert costs == layer_costs(unet, call)
    total = count_operations(unet, (), call)
    assert sum(cost.macs for cost in costs.values()) == total.layer_macs
    assert sum(cost.bops for cost in costs.values()) == total.layer_bops


def test_split_layers_are_planned_in_their_parts(micro_folder: Path) -> None:
    found = micro_plan(micro_folder, QDiffusion())
    split = [name for name in found.layers if name.endswith((".first", ".second"))]
    assert len(split) == 2 * 2 * 4  # conv1 and conv_shortcut of four resnets on the way up
    assert set(found.kept) == {"conv_in", "conv_out"}


# Nothing is started


def test_a_plan_needs_no_weights_and_no_network(
    micro_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    folder = configurations(micro_folder, tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = sorted(tmp_path.rglob("*"))
    found = micro_plan(folder)
    assert sorted(tmp_path.rglob("*")) == before
    json.dumps(found.to_dict())
    with pytest.raises(DGQError, match="planning downloads nothing"):
        local_folder("somebody/some-model-that-no-cache-has")


def test_dry_run_prints_and_leaves_nothing(
    micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = configurations(micro_folder, tmp_path)
    arguments = fit_arguments(folder, tmp_path, "run", "--config", "w4a8.yaml")
    assert main([*arguments, *LEARNING, "--dry_run"], CalibrationData) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"configurations", "captions.txt"}
    said = capsys.readouterr().out
    for word in ("24", "spare bits", "integer product", "checkpoint", "memory", "estimated"):
        assert word in said


def test_a_dry_run_refuses_captions_that_a_calibration_would(
    micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = configurations(micro_folder, tmp_path)
    arguments = fit_arguments(folder, tmp_path, "run", "--config", "w4a8.yaml")
    (tmp_path / "captions.txt").write_text("one\n")
    assert main([*arguments, *LEARNING, "--dry_run"], CalibrationData) == 2
    assert "captions.txt holds 1 distinct caption" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("accelerator", "mps", "cuda", "device"),
    [
        ("auto", False, False, "cpu"),
        ("auto", False, True, "cuda"),
        ("auto", True, False, "mps"),
        ("gpu", True, False, "mps"),
        ("mps", True, False, "mps"),
        ("cpu", True, True, "cpu"),
        ("cuda", True, True, "cuda"),
    ],
)
def test_a_plan_is_for_the_device_that_the_trainer_takes(
    accelerator: str, mps: bool, cuda: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run.MPSAccelerator, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert dry_run.device_of(accelerator) == torch.device(device)


def test_more_samples_than_there_are_calls_are_refused(micro_folder: Path) -> None:
    with pytest.raises(DGQError, match=r"n_samples must be 3 .* to 9"):
        micro_plan(micro_folder, n_samples=10)


def test_samples_that_do_not_fit_are_pointed_out(
    micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "DO NOT FIT" not in dict(lines(micro_plan(micro_folder)))["memory"]
    monkeypatch.setattr("dgq.planning.plan.free_bytes", lambda *_: 1000)
    on_disk = WaitingSettings("disk", "float16")
    assert "DO NOT FIT" in dict(lines(micro_plan(micro_folder, waiting=on_disk)))["memory"]


# Time


def test_time_follows_the_work() -> None:
    once = estimated_seconds(WORK, LearningSettings(), RATES)
    twice = estimated_seconds(WORK, LearningSettings(400, 120), RATES)
    assert twice["learning"] == pytest.approx(2 * once["learning"])
    assert twice["capture"] == once["capture"]
    nearest = LearningSettings(iterations=0, polish_iterations=0)
    assert estimated_seconds(WORK, nearest, RATES)["learning"] == 0
    learned = estimated_seconds(WORK, LearningSettings(activation_lr=0.05), RATES)
    assert learned["observation"] == pytest.approx(2 * once["observation"])


def test_a_probe_measures_what_takes_time() -> None:
    layer = torch.nn.Conv2d(64, 64, 3, padding=1, device="meta")
    cost = LayerCost(64 * 64 * 9, 32, 32, 64 * 64 * 9 * 32 * 32, (1, 64, 32, 32))
    rates = measure_rates(layer, cost, 4, WeightSettings(4), torch.device("cpu"))
    assert 0 < rates.forward < rates.learning
    assert rates.rounding > 0
    assert rates.searching > 0


@pytest.mark.parametrize(("seconds", "text"), [(30, "0.5 min"), (700, "12 min"), (7300, "2.0 h")])
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert minutes(seconds) == text
