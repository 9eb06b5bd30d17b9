"""The benchmark of inference: order of the rows, arithmetic of the tables, what is skipped."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.inference import children, command, machine, measure, rows, table
from benchmarks.inference import run as runs
from benchmarks.inference.children import reason
from benchmarks.inference.embedded import Embedded
from benchmarks.inference.full_size import FullSize
from benchmarks.inference.parts import Part
from benchmarks.inference.request import Options, Request
from benchmarks.inference.rows import ROWS, USUAL_ROWS, Entrant, available, entrants, turns
from benchmarks.inference.summary import summarise
from data.calibration import CalibrationData
from dgq import DGQError, load_quantized_unet, read_manifest
from lit.cli import main
from tests.tiny_pipelines import LEARNING, fit_arguments


def options(cache: Path, **changes: Any) -> Options:
    given: dict[str, Any] = {
        "cache": str(cache),
        "ckpts": (),
        "threads": 1,
        "calls": 1,
        "captions": 2,
        "calibration_calls": 4,
    }
    return Options(**given | changes)


def made_answer(
    wall: Sequence[float], compile_s: float = 0.0, others: float = 0.0, **more: Any
) -> dict[str, Any]:
    timed: dict[str, Any] = {
        "wall_s": list(wall),
        "cpu_s": [2 * s for s in wall],
        "compile_s": compile_s,
    }
    timed |= {"others_cpu_s": [others * s for s in wall]}
    return {
        "load_s": 3.0,
        "loading_peak_gib": 1.5,
        "resident_gib": 1.25,
        "file_mb": 459.2,
        "execution": "what runs",
        "batches": {"2": timed | {"peak_gib": 2.0}},
        **more,
    }


def entrant(row: str, ckpt: str = "") -> Entrant:
    return Entrant("embedded", row, ckpt, ROWS[row].title)


def made_figures() -> dict[str, Any]:
    answers = {
        entrant("fp32"): [made_answer([4.0, 5.0], sqnr_db=None), made_answer([4.5, 6.0])],
        entrant("integer-compiled", "w4a8"): [
            made_answer([1.0], 60.0, sqnr_db=24.04),
            made_answer([2.0], 7.0),
        ],
        entrant("nncf"): [],
    }
    failures = {entrant("nncf"): "no memory"}
    return {
        "command": "python benchmarks/inference",
        "machine": {"cpu": "A CPU", "features": ["avx2"], "versions": {"torch": "2.13.0"}},
        "threads": 2,
        "repeats": 2,
        "repeats_done": 2,
        "titles": {"embedded": "embedded model"},
        "notes": ["openvino: skipped"],
        "tables": summarise(answers, failures),
    }


def test_rows_take_turns_round_by_round() -> None:
    one, two = entrant("fp32"), entrant("bf16")
    assert list(turns([one, two], 2)) == [(0, one), (0, two), (1, one), (1, two)]


def test_quantized_rows_come_once_for_each_quantized_model() -> None:
    found = list(entrants("embedded", ["fp32", "integer", "nncf"], ["a", "b"]))
    assert [(e.row, e.ckpt) for e in found] == [
        ("fp32", ""),
        ("integer", "a"),
        ("integer", "b"),
        ("nncf", ""),
    ]
    assert found[1].title == "integer, eager (a)"
    (alone,) = entrants("embedded", ["integer"], ["a"])
    assert alone.title == "integer, eager"


def test_what_is_not_installed_is_skipped_with_the_command_that_installs_it() -> None:
    names, notes = available(list(ROWS), lambda package: package != "nncf")
    assert names == [name for name in ROWS if name != "nncf"]
    assert notes == [
        f"nncf: skipped, nncf not installed; `{rows.INSTALL}` installs what is missing"
    ]
    names, (note,) = available(list(ROWS), lambda package: False)
    assert not {"openvino-f32", "openvino", "nncf", "export-openvino", "export-onnx"} & set(names)
    assert "nncf and onnx and onnxruntime and openvino and torchao not installed" in note
    assert available(["fp32"], lambda package: False) == (["fp32"], [])


def test_repeats_are_summed_up_and_compared() -> None:
    (one,) = made_figures()["tables"]
    full, ours, peer = one["rows"]
    assert (one["model"], one["batch"]) == ("embedded", 2)
    assert (full["wall_min_s"], full["wall_median_s"], full["calls"]) == (4.0, 4.75, 4)
    assert full["cpu_s"] == 9.5
    assert full["faster_than"] == {
        "fp32": 1.0,
        "bf16": None,
        "bf16-compiled": None,
        "nncf": None,
    }
    assert ours["faster_than"]["fp32"] == 4.0
    assert (ours["compile_s"], ours["compile_again_s"]) == (60.0, 7.0)
    assert ours["sqnr_db"] == 24.04
    assert (peer["failed"], peer["faster_than"]["fp32"]) == ("no memory", None)


def test_a_row_that_has_not_run_yet_is_left_out_until_it_has() -> None:
    answers = {entrant("fp32"): [made_answer([1.0])], entrant("bf16"): []}
    (one,) = summarise(answers, {})
    assert [row["row"] for row in one["rows"]] == ["fp32"]
    assert not summarise({entrant("fp32"): []}, {})


def test_the_markdown_has_a_cell_for_each_header_and_says_what_runs() -> None:
    figures = made_figures()
    headers = table.headers(figures["tables"][0])
    text = table.markdown(figures)
    lines = text.splitlines()
    cells = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in cells} == {len(headers) + 1}
    assert "x fp32" in headers
    assert "x NNCF" not in headers  # with which nothing was compared
    row = "| integer, compiled | 1.00 | 1.50 | 3.00 | 4.00 | 2.00 | 1.25 | 459 | 60 | 24.0 |"
    assert row in lines
    assert next(line for line in lines if line.startswith("| NNCF")).startswith(
        "| NNCF full W8A8 |"
    )
    assert "### embedded model, batch 2" in lines
    assert "- openvino: skipped" in lines
    assert "- embedded model, NNCF full W8A8: failed: no memory" in lines
    assert "- embedded model, integer, compiled: what runs" in lines
    assert "A CPU (avx2), 2 threads." in text


def test_the_table_for_a_terminal_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    figures = made_figures()
    table.print_tables(figures, runs.Console())
    shown = capsys.readouterr().out
    assert "…" not in shown
    for header in table.headers(figures["tables"][0]):
        assert header in shown


def test_figures_are_json_also_before_anything_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    run = command.plan(command.parse(["--rows", "fp32", "--json", str(file)]), "command")
    run.write()
    content = json.loads(file.read_text())
    assert content["tables"] == []
    assert content["machine"]["versions"]["torch"] == version("torch")
    assert list(tmp_path.iterdir()) == [file]


def test_rows_that_others_have_disturbed_are_named() -> None:
    calm, disturbed = made_answer([1.0], others=0.1), made_answer([1.0, 3.0], others=0.5)
    tables = summarise({entrant("fp32"): [calm], entrant("bf16"): [disturbed]}, {})
    assert [row["others_cores"] for row in tables[0]["rows"]] == pytest.approx([0.1, 0.5])
    (remark,) = table.remarks(made_figures() | {"notes": [], "tables": tables})
    assert remark.endswith("slows these down: embedded model, torch bf16, eager")


def test_busy_seconds_are_those_of_all_processes(tmp_path: Path) -> None:
    file = tmp_path / "stat"
    file.write_text("cpu  100 200 300 9999 5 0 0 0 0 0\ncpu0 1 2 3\n")
    ticks = machine.os.sysconf("SC_CLK_TCK")
    assert machine.busy_seconds(file) == 600 / ticks
    assert machine.busy_seconds(tmp_path / "missing") == 0.0
    before = machine.busy_seconds()
    assert machine.busy_seconds() >= before


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: A fast one\n")
    assert machine.cpu_name(file) == "A fast one"
    assert machine.cpu_name(tmp_path / "missing")


def test_small_models_are_called_until_they_have_run_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(measure, "_stopwatch", lambda run: (calls.append(1), (0.3, 0.6, 0.0))[1])
    timed = measure.timings(lambda: None, 2)
    assert timed["wall_s"] == [0.3] * 4
    assert timed["peak_gib"] > 0
    monkeypatch.setattr(measure, "_stopwatch", lambda run: (8.0, 16.0, 0.5))
    assert measure.timings(lambda: None, 2)["wall_s"] == [8.0, 8.0]


def test_a_part_is_made_once_and_again_with_other_settings(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        (folder / "file").write_text(str(len(made)))
        made.append(folder)

    part = Part(tmp_path / "part", {"sizes": (1, 2)}, make)
    assert not part.is_ready
    part.ensure()
    part.ensure()
    assert part.is_ready
    other = Part(tmp_path / "part", {"sizes": (1, 3)}, make)
    assert not other.is_ready
    other.ensure()
    assert (tmp_path / "part" / "file").read_text() == "1"
    assert not part.is_ready


def test_an_unfinished_part_is_made_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Part(tmp_path / "part", {}, fail).ensure()
    part = Part(tmp_path / "part", {}, lambda folder: None)
    assert not part.is_ready
    part.ensure()
    assert not (tmp_path / "part" / "half").exists()


def test_why_a_child_has_failed() -> None:
    assert reason(1, "Traceback\n  File\nValueError: no\n\n") == "ValueError: no"
    assert "memory" in reason(-9, "")
    assert reason(3, "") == "exit code 3"


def test_a_row_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(request: Request, _options: Options, _work: Path) -> dict[str, Any]:
        asked.append(request.row or request.part)
        if request.row == "bf16":
            raise DGQError("no memory")
        return made_answer([1.0])

    monkeypatch.setattr(runs, "ask", ask)
    arguments = ["--rows", "bf16", "fp32", "--models", "sd14", "--repeats", "2"]
    run = command.plan(command.parse(arguments), "command")
    run.run(tmp_path)
    assert asked == ["bf16", "fp32", "fp32"]
    figures = run.figures()
    assert figures["repeats_done"] == 2
    assert [row.get("failed") for row in figures["tables"][0]["rows"]] == ["no memory", None]


def test_a_row_fails_whose_part_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(request: Request, _options: Options, _work: Path) -> dict[str, Any]:
        if request.part:
            raise DGQError("disk full")
        return made_answer([1.0])

    monkeypatch.setattr(runs, "ask", ask)
    arguments = ["--rows", "fp32", "integer", "--models", "sd14", "--cache", str(tmp_path)]
    run = command.plan(command.parse(arguments), "command")
    run.run(tmp_path)
    assert {e.row: why for e, why in run.failures.items()} == {"integer": "quantized: disk full"}
    assert len(run.answers[run.entrants[0]]) == 3


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--repeats", "0"), "--repeats must be"),
        (("--threads", "-1"), "--threads must be"),
        (("--batch", "0"), "--batch must be"),
        (("--calibration-calls", "0"), "--calibration-calls must be"),
        (("--rows", "fp32", "fp32"), "--rows names something twice"),
        (("--quick", "--ckpt", "nowhere"), "train.py fit --config"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_done(
    arguments: tuple[str, ...],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [("--rows", "fastest"), ("--quick", "--models", "sd14")])
def test_what_there_is_no_such_option_for_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main(arguments)
    assert exit_.value.code == 2


def test_no_row_left_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "available", lambda names: ([], ["nncf: skipped"]))
    assert command.main(["--rows", "nncf"]) == 2
    assert "no row can run here: nncf: skipped" in capsys.readouterr().err


def test_runs_of_two_pipelines_are_not_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from benchmarks.inference import embedded

    class Fake:
        def __init__(self, pipeline: str) -> None:
            self.pipeline, self.generation = pipeline, None

    monkeypatch.setattr(embedded, "read_manifest", Fake)
    with pytest.raises(DGQError, match="two was made from another pipeline or sampler than one"):
        Embedded(options(tmp_path, ckpts=("one", "two")))


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    names = ("quick", "models", "rows", "batch", "ckpt", "repeats", "calls", "threads")
    for option in (
        *names,
        "captions",
        "activation-bits",
        "calibration-calls",
        "cache",
        "json",
        "markdown",
    ):
        assert f"--{option} " in text
    for name in ROWS:
        assert name in text
    assert children.CHILD not in text.split()


class Tiny(FullSize):
    """The same structure, with a thousandth of the weights."""

    config = {  # noqa: RUF012
        "sample_size": 16,
        "block_out_channels": (16, 32, 32, 32),
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }


def test_a_quantized_model_of_random_weights_runs_in_integers(tmp_path: Path) -> None:
    subject = Tiny(options(tmp_path))
    for name in ("quantized", "weight-only"):
        part = subject.part(name, "w4a8")
        assert part is not None
        with torch.no_grad():
            part.ensure()
        assert part.is_ready
    folder = subject.quantized("w4a8")
    unet = load_quantized_unet(folder, "auto")
    call = subject.call(2)
    assert unet(**call)[0].isfinite().all()
    without = tmp_path / "sd14" / "weight-only-0"
    assert read_manifest(without).quantization.activations.n_bits == 16
    assert load_quantized_unet(without, "float")(**call)[0].isfinite().all()


def test_activations_of_random_weights_have_the_bits_that_are_asked_for(tmp_path: Path) -> None:
    subject = Tiny(options(tmp_path, activation_bits=6))
    part = subject.part("quantized", *subject.ckpts())
    assert part is not None
    with torch.no_grad():
        part.ensure()
    folder = subject.quantized(*subject.ckpts())
    assert read_manifest(folder).quantization.activations.n_bits == 6
    assert folder.name == "w4a6"
    assert "6-bit activations" in subject.title
    other = Tiny(options(tmp_path)).part("quantized", "w4a8")
    assert other is not None
    assert not other.is_ready


@pytest.mark.slow
def test_the_whole_command_on_a_tiny_pipeline(micro_folder: Path, tmp_path: Path) -> None:
    """All rows that can run here."""
    fit = fit_arguments(micro_folder, tmp_path, "run", "--config", "w4a8.yaml")
    assert main([*fit, *LEARNING], CalibrationData) == 0
    file, page = tmp_path / "figures.json", tmp_path / "page.md"
    arguments = ["--quick", "--ckpt", str(tmp_path / "run"), "--repeats", "1"]
    arguments += ["--captions", "2", "--calibration-calls", "4", "--threads", "1", "--batch", "2"]
    arguments += ["--cache", str(tmp_path / "cache"), "--json", str(file), "--markdown", str(page)]
    assert command.main(arguments) == 0
    figures = json.loads(file.read_text())
    (one,) = figures["tables"]
    expected, _ = available(list(USUAL_ROWS))
    assert [row["row"] for row in one["rows"]] == expected
    qualities = {row["row"]: row["sqnr_db"] for row in one["rows"]}
    assert qualities["integer"] == pytest.approx(qualities["fake"], abs=1.0)
    assert qualities["weight-only"] > qualities["fake"] - 0.5
    assert qualities["bf16"] > qualities["fake"]
    assert page.read_text().count("\n| ") >= len(expected)
    assert not list((tmp_path / "cache").glob("tmp*"))
