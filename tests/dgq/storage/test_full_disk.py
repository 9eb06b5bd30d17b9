"""On a full disk an earlier model or export stays as it was, and nothing else is left."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from dgq.command_line.main import main
from dgq.export import folder as export_folder
from dgq.export.openvino import save_openvino
from dgq.storage import files, tensor_files
from dgq.storage.checkpoint import load_quantized_unet, read_manifest, save_quantized
from dgq.storage.tensor_files import write_tensors
from tests.calibration_runs import contents
from tests.quantized_models import Calibrated

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def quantized_again(folder: Path) -> None:
    """Write another model over the one in a folder."""
    unet = load_quantized_unet(folder, "float", torch.float32)
    manifest = read_manifest(folder)
    generation = replace(manifest.generation, guidance_scale=9.0)
    save_quantized(unet, folder, replace(manifest, generation=generation))


def saved_again(folder: Path) -> None:
    """Write the model in shards over the one in a folder."""
    unet = load_quantized_unet(folder, "float", torch.float32)
    unet.save_pretrained(folder, max_shard_size="20KB")


@pytest.mark.parametrize("save", [quantized_again, saved_again])
@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_disk_that_fills_up_keeps_the_earlier_model(
    room: int,
    save: Callable[[Path], None],
    calibrated_as: Callable[[str], Calibrated],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(calibrated_as("exponents a6").folder, tmp_path / "model"))
    before = contents(tmp_path)
    flushed: list[int] = []

    def flush(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) > room:
            raise FULL

    n_needed = 2 if save is quantized_again else 5  # files before the first is replaced
    monkeypatch.setattr(files.os, "fsync", flush)
    with pytest.raises(OSError, match="No space left"):
        save(folder)
    monkeypatch.undo()
    if room < n_needed:
        assert contents(tmp_path) == before
    load_quantized_unet(folder)
    save(folder)
    assert contents(tmp_path) != before


def test_tensors_that_do_not_fit_are_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensor_files, "save_file", fails)
    with pytest.raises(OSError, match=f"{tmp_path} cannot be written into.*No space left"):
        write_tensors(tmp_path / "t.safetensors", {"a": torch.ones(1)}, {})
    assert not list(tmp_path.iterdir())


def test_an_export_to_a_full_disk_is_one_line(
    calibrated_as: Callable[[str], Calibrated],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensor_files, "save_file", fails)
    model = str(calibrated_as("exponents a6").folder)
    assert main(["export", model, "--to", "comfyui", "--out", str(tmp_path / "out")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "No space left" in errors[0]
    assert "fix that" in errors[0]
    assert not list(tmp_path.iterdir())


def test_what_openvino_cannot_write_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(pytest.importorskip("openvino"), "save_model", fails)
    with pytest.raises(OSError, match=f"cannot write into {tmp_path}"):
        save_openvino(None, tmp_path)


class TestReplacedExports:
    """The moment between two renames, at which the earlier export has another name."""

    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        """An earlier export."""
        out = tmp_path / "out [1]"
        out.mkdir()
        (out / export_folder.DESCRIPTION).write_text("first")
        return out

    def test_an_error_puts_the_earlier_one_back(
        self, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stock = Path.rename

        def rename(path: Path, target: Path) -> Path:
            if path.name.endswith(".new.partial"):
                raise KeyboardInterrupt
            return stock(path, target)

        monkeypatch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt), export_folder.folder_beside(out) as beside:
            (beside / export_folder.DESCRIPTION).write_text("second")
        assert contents(out.parent) == {f"{out.name}/{export_folder.DESCRIPTION}": b"first"}

    @pytest.mark.parametrize("done", [False, True])
    def test_a_kill_is_undone_by_the_next_export(
        self, done: bool, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files.psutil, "pid_exists", lambda number: False)
        out.rename(out.with_name(files.partial_name(out.name, ".old")))
        new = out.with_name(files.partial_name(out.name, ".new"))
        new.mkdir()
        (new / export_folder.DESCRIPTION).write_text("second")
        if done:
            new.rename(out)
        export_folder.recover(out)
        expected = b"second" if done else b"first"
        assert contents(out.parent) == {f"{out.name}/{export_folder.DESCRIPTION}": expected}

    def test_what_another_process_is_writing_stays(self, out: Path) -> None:
        beside = out.with_name(files.partial_name(out.name, ".new"))
        beside.mkdir()
        export_folder.recover(out)
        assert beside.is_dir()
