"""``python -m dgq export``: what it writes, and the one line when it does not."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dgq.command_line.main import main
from dgq.export import engines, folder
from tests.exported_models import exported_model


@pytest.fixture(scope="module")
def model() -> str:
    return str(exported_model("w4a8").folder)


def test_an_export_is_written_and_told_of(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert main(["export", model, "--to", "comfyui", "--out", str(out)]) == 0
    assert json.loads((out / "export.json").read_text())["engine"] == "comfyui"
    assert (out / "unet.safetensors").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: ")
    assert "linear layers in int8" in said
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_where_an_export_must_not_run_is_said(
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caution = engines.ENGINES["openvino"].caution
    assert caution is not None
    assert "VNNI" in caution
    careful = replace(engines.ENGINES["comfyui"], caution=caution)
    monkeypatch.setitem(engines.ENGINES, "comfyui", careful)
    assert main(["export", model, "--to", "comfyui", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.replace("\n", " ").endswith(f"caution: {caution} ")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("error: ")
    return said


def test_nothing_is_overwritten_unasked(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["export", model, "--to", "comfyui", "--out", str(out)]
    assert main(command) == 0
    capsys.readouterr()
    (out / "mark").write_text("of the first")
    assert "add --overwrite" in refused(command, capsys)
    assert (out / "mark").exists()
    assert main([*command, "--overwrite"]) == 0
    assert not (out / "mark").exists()
    capsys.readouterr()
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("not an export")
    said = refused([*command[:-1], str(other), "--overwrite"], capsys)
    assert "is not an export" in said
    assert (other / "precious").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"out", "other"}


def test_what_fails_halfway_leaves_the_earlier_export(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with folder.folder_beside(out) as beside:
        (beside / "file").write_text("first")
    with suppress(RuntimeError), folder.folder_beside(out) as beside:
        (beside / "file").write_text("second, but")
        raise RuntimeError
    assert (out / "file").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_missing_engine_or_model_is_one_line(
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = str(tmp_path / "out")
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    for name in ("openvino", "onnx"):
        said = refused(["export", model, "--to", name, "--out", out], capsys)
        assert f"pip install 'dgq[{name}]'" in said
    missing = str(tmp_path / "nothing")
    assert "does not exist" in refused(["export", missing, "--to", "comfyui", "--out", out], capsys)
    said = refused(["export", model, "--to", "comfyui", "--pipeline", "--out", out], capsys)
    assert "--pipeline goes with --to openvino" in said
    assert not list(tmp_path.iterdir())


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["export", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for name in ("--to", "--out", "--pipeline", "--overwrite", *engines.ENGINES):
        assert name in text
    with pytest.raises(SystemExit) as exit_:
        main(["export", "outputs/w4a8", "--to", "tensorrt", "--out", "out"])
    assert exit_.value.code == 2
