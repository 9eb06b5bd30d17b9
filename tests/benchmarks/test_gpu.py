"""The benchmark of GPUs: steps and their time, exactness, peaks and gaps, as far as a CPU goes."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import command, exactness, steps
from benchmarks.inference import command as inference
from benchmarks.inference import layer_gaps, peaks, rows
from dgq import load_quantized_unet
from dgq.ops import cpu
from tests.quantized_models import Calibrated

pytest.importorskip("triton")

exact = pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")


def step(seconds: int, *scripts: str) -> steps.Step:
    return steps.Step(seconds, [["-c", script] for script in scripts])


def test_a_step_that_fails_or_hangs_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "LEAST_SECONDS", 0)
    plan = steps.Plan(tmp_path, tmp_path, True)
    given = {
        "fails": step(60, "print('why'); raise SystemExit(3)", "pass"),
        "hangs": step(1, "import time; time.sleep(60)"),
        "runs": step(60, "print('found')"),
    }
    assert command.run(plan, given, 100) == 1
    became = json.loads((tmp_path / command.SUMMARY).read_text())
    assert [one["outcome"] for one in became.values()] == [
        "exit codes [3, 0], see fails.log",
        "stopped after 1 s",
        "done",
    ]
    assert (tmp_path / "fails.log").read_text() == "why\n"
    assert command.run(plan, {"runs": given["runs"]}, 100) == 0


def test_no_step_is_begun_without_time(tmp_path: Path) -> None:
    plan = steps.Plan(tmp_path, tmp_path, True)
    assert command.run(plan, {"late": step(60, "pass")}, command.LEAST_SECONDS - 1) == 1
    became = json.loads((tmp_path / command.SUMMARY).read_text())
    assert became == {"late": {"outcome": "no time was left"}}


def test_all_end_where_a_required_step_fails(tmp_path: Path) -> None:
    plan = steps.Plan(tmp_path, tmp_path, True)
    begun = tmp_path / "begun"
    waits = "import pathlib, time\nwhile not pathlib.Path(r'{}').exists(): time.sleep(0.02)"
    given = {
        "smoke": replace(step(60, f"{waits.format(begun)}\nraise SystemExit(1)"), is_required=True),
        "long": step(60, f"open(r'{begun}', 'w')\nimport time; time.sleep(60)"),
        "next": step(60, "pass"),
    }
    assert command.run(plan, given, 100, 2) == 1
    became = json.loads((tmp_path / command.SUMMARY).read_text())
    assert became["smoke"]["outcome"] == "exit codes [1], see smoke.log"
    assert became["long"]["seconds"] < 30
    assert became["next"]["outcome"] == "not begun: a required step has failed"


def test_steps_run_side_by_side(tmp_path: Path) -> None:
    plan = steps.Plan(tmp_path, tmp_path, True)
    waits = "import pathlib, time\nwhile not pathlib.Path(r'{}').exists(): time.sleep(0.02)"
    first, second = tmp_path / "first", tmp_path / "second"
    given = {
        "first": step(60, f"open(r'{first}', 'w')\n{waits.format(second)}"),
        "second": step(60, f"open(r'{second}', 'w')\n{waits.format(first)}"),
    }
    assert command.run(plan, given, 100, 2) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--steps all", "--steps: no step all, expected smoke, sd14-compiled"),
        ("--jobs 0", "--jobs must be a whole number of at least 1, got 0"),
        ("--seconds -1", "--seconds must be a whole number of at least 1, got -1"),
        ("--ckpt nowhere", "nowhere cannot be used as a checkpoint"),
    ],
)
def test_bad_input_is_one_line(
    options: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(tmp_path / "out"), *options.split()]) == 2
    assert said in capsys.readouterr().err


def test_a_signal_ends_the_steps_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = tmp_path / "begun"
    kills = f"import os, time; open(r'{begun}', 'w'); os.kill(os.getppid(), 15); time.sleep(60)"
    monkeypatch.setattr(steps.Plan, "steps", lambda _: {"long": step(60, kills)})
    started = time.monotonic()
    assert command.main([str(tmp_path), "--rehearse"]) == 128 + 15
    assert begun.exists()
    assert time.monotonic() - started < 30
    assert "stopped by SIGTERM" in capsys.readouterr().err


@pytest.mark.parametrize("rehearse", [False, True])
def test_every_step_is_a_command_that_there_is(rehearse: bool, tmp_path: Path) -> None:
    plan = steps.Plan(tmp_path, tmp_path, rehearse, "outputs/w4a8")
    for name, one in plan.steps().items():
        for script, *arguments in one.commands:
            assert Path(script).exists()
            if Path(script).name == "inference":
                parsed = inference.parse(arguments)
                assert set(parsed.rows) <= rows.ROWS.keys()
                assert parsed.json == tmp_path / f"{name}.json"
            if Path(script).name == "gpu":
                assert command.parse(arguments).rehearse == rehearse


def test_a_gpu_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert inference.main(["--device", "cuda", "--models", "sd14"]) == 2
    assert "--device cuda: torch finds no GPU here" in capsys.readouterr().err


def test_a_gpu_has_rows_and_batches_of_its_own() -> None:
    arguments = inference.parse(["--device", "cuda", "--models", "sdxl"])
    assert arguments.rows == list(rows.GPU_ROWS)
    assert "integer" in inference.parse([]).rows
    assert "torchao" not in inference.parse([]).rows
    names, (note,) = rows.available(arguments.rows, lambda package: package != "torchao")
    assert "torchao" not in names
    assert note.endswith("`pip install torchao` installs what is missing")


@pytest.mark.parametrize("name", ["conv", "conv-stride", "linear-packed"])
def test_all_tiles_are_checked_against_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled here, not interpreted")
    small = exactness.triton.Tile(32, 32, 32)
    monkeypatch.setattr(exactness, "tiles_first", lambda: small)
    found = exactness.check(name, "cpu", 32)
    assert found["exact"]
    # A packed weight unpacked before, or boxes.
    assert len(found["tiles"]) == len(exactness.PARTS) + 1
    kind = "int_conv2d_packed" if name.endswith("packed") else "int_conv2d"
    right = getattr(exactness.triton, kind)
    monkeypatch.setattr(exactness.triton, kind, lambda *a, **k: right(*a, **k) + 1)
    results = exactness.check(name, "cpu", 32)["tiles"]
    assert {r for tile, r in results.items() if not tile.startswith("boxes")} == {"WRONG"}


def test_what_a_product_needs_is_the_larger_of_operations_and_bytes() -> None:
    found = peaks.Peaks(int8_ops=100.0, bf16_ops=50.0, bytes_per_s=10.0)
    assert found.least_seconds(1000, 10, integer=True) == 10
    assert found.least_seconds(1000, 10, integer=False) == 20
    assert found.least_seconds(1000, 500, integer=True) == 50
    measured = peaks.measure_peaks("cpu", 32)
    assert min(measured.int8_ops, measured.bf16_ops, measured.bytes_per_s) > 0


@exact
@torch.no_grad()
def test_each_shape_of_layer_is_measured_once(
    calibrated_as: Callable[[str], Calibrated], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = calibrated_as("multiples")
    unet: Any = load_quantized_unet(model.folder, "integer")

    def once(run: Callable[[], torch.Tensor], _: str) -> float:
        run()
        return 0.5

    monkeypatch.setattr(layer_gaps, "seconds_of", once)
    found = layer_gaps.layer_gaps(unet, model.call, peaks.Peaks(1e9, 1e9, 1e9), "cpu")
    assert sum(shape["layers"] for shape in found) == unet.execution.integer_layers
    assert all(shape["exact"] for shape in found)
    assert all(shape["bf16_seconds"] == 0.5 > shape["least_seconds"] > 0 for shape in found)
    assert unet.calls.current is None
