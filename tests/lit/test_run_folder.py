"""A run writes over nothing but its own beginning, and one calibration at a time into a folder."""

import os
import shutil
import signal
from pathlib import Path

import filelock
import pytest

from dgq.errors import DGQError
from dgq.storage.model_files import WEIGHTS_FILE
from lit.run_folder import HEADER, checkpoint_to_resume, claimed

CONTENTS = {
    "nothing": [],
    "something else": ["notes.txt", "evaluation/metrics.json"],
    "begun": ["own config.yaml"],
    "begun, a target nearly finished": ["own config.yaml", "log.csv"],
    "half": ["own config.yaml", "log.csv", "last.ckpt"],
    "half, its config lost": ["last.ckpt"],
    "killed while the model was written": [
        "own config.yaml",
        f"quantized/{WEIGHTS_FILE}",
    ],
    "finished": ["own config.yaml", "last.ckpt", "quantized/config.json"],
    "finished, its checkpoint lost": ["own config.yaml", "quantized/config.json"],
    "a config of something else": ["config.yaml"],
    "a log of something else": ["log.csv"],
    "a folder of something else": ["quantized/model.bin"],
}

CAN_START = {"nothing", "something else", "begun", "begun, a target nearly finished"}
CAN_GO_ON = CAN_START | {
    *("half", "half, its config lost", "finished", "killed while the model was written")
}


@pytest.fixture(params=CONTENTS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A folder and what is in it."""
    folder = tmp_path / "run"
    for name in CONTENTS[request.param]:
        file = folder / name.removeprefix("own ")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(HEADER + "a: 1\n" if name.startswith("own ") else "theirs")
    return request.param, folder


def test_a_new_run_writes_over_nothing(run: tuple[str, Path]) -> None:
    name, folder = run
    if name in CAN_START:
        assert checkpoint_to_resume(folder, None) is None
    else:
        with pytest.raises(DGQError, match=r"--run DIR"):
            checkpoint_to_resume(folder, None)


def test_links_to_nothing_are_in_the_way(tmp_path: Path) -> None:
    """Where the link points, no folder can be made; better said now than after the calibration."""
    (tmp_path / "quantized").symlink_to(tmp_path / "unmounted" / "quantized")
    for resume in (None, "last"):
        with pytest.raises(DGQError, match=r"quantized was not written by a calibration"):
            checkpoint_to_resume(tmp_path, resume)


def test_a_run_killed_at_any_moment_goes_on(run: tuple[str, Path]) -> None:
    name, folder = run
    if name not in CAN_GO_ON:
        with pytest.raises(DGQError, match=r"--run DIR"):
            checkpoint_to_resume(folder, "last")
        return
    last = folder / "last.ckpt"
    assert checkpoint_to_resume(folder, "last") == (last if last.exists() else None)


def test_another_runs_checkpoint_goes_on_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other" / "last.ckpt"
    other.parent.mkdir()
    other.write_text("x")
    assert checkpoint_to_resume(tmp_path / "run", str(other)) == other
    for own in (tmp_path / "other", Path("other")):  # however its own checkpoint is named
        assert checkpoint_to_resume(own, str(other)) == other
        assert checkpoint_to_resume(own, "other/last.ckpt") == Path("other/last.ckpt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_text("mine")
    with pytest.raises(DGQError, match="already holds a calibration"):
        checkpoint_to_resume(tmp_path / "run", str(other))


@pytest.mark.parametrize("resume", ["", " ", "best", "hpc", "none.ckpt", ".", "http://a/b.ckpt"])
def test_what_is_no_checkpoint_is_refused(resume: str, tmp_path: Path) -> None:
    with pytest.raises(DGQError, match="does not exist: give last, or the file"):
        checkpoint_to_resume(tmp_path, resume)


def claim_for_ever(run: Path, ready: int) -> None:
    """What another process does."""
    with claimed(run):
        os.write(ready, b"claimed")
        signal.pause()


def test_two_calibrations_never_share_a_folder_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    told, ready = os.pipe()
    other = os.fork()
    if other == 0:
        claim_for_ever(run, ready)
    assert os.read(told, 7) == b"claimed"
    with (
        pytest.raises(DGQError, match=r"another calibration is writing into .*--run DIR"),
        claimed(run),
    ):
        pytest.fail("claimed twice")
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    with claimed(run):
        assert run.is_dir()
    assert not run.exists()


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / "quantized").mkdir()
    mine = tmp_path / ".hidden"
    for file in (
        mine,
        tmp_path / ".last.ckpt.elsewhere-1-abcd.partial",
        tmp_path / "quantized" / ".diffusion_pytorch_model.safetensors.elsewhere-1-abcd.partial",
    ):
        file.write_text("x")
    with claimed(tmp_path):
        assert {p for p in tmp_path.rglob("*") if p.is_file()} == {mine, tmp_path / ".run.lock"}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_the_lock_file_of_another_machine_is_named(tmp_path: Path) -> None:
    """Where there are no locks, a killed process there leaves it."""
    (tmp_path / ".run.lock").write_text("1\nanother-machine\n")
    with (
        filelock.FileLock(tmp_path / ".run.lock"),
        pytest.raises(DGQError, match=r"left .*\.run\.lock: remove it"),
        claimed(tmp_path),
    ):
        pytest.fail("claimed")


@pytest.mark.parametrize("moved", [True, False])
def test_a_folder_that_is_moved_or_removed_is_another_runs_from_then_on(
    moved: bool, tmp_path: Path
) -> None:
    """The first calibration notices, and its end does not release the lock of the second."""
    run = tmp_path / "run"
    with claimed(run) as first:
        first.check()
        run.rename(tmp_path / "moved") if moved else shutil.rmtree(run)
        with pytest.raises(DGQError, match="moved or removed while"):
            first.check()
        second = claimed(run)
        claim = second.__enter__()
        with pytest.raises(DGQError, match="moved or removed while"):
            first.check()
    claim.check()
    with pytest.raises(DGQError, match="another calibration is writing"), claimed(run):
        pytest.fail("claimed twice")
    second.__exit__(None, None, None)
    assert not run.exists()


@pytest.mark.parametrize("name", ["file/run", "x" * 300, "file"])
def test_a_folder_that_cannot_be_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DGQError, match="cannot be written into"), claimed(tmp_path / name):
        pytest.fail("claimed")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
