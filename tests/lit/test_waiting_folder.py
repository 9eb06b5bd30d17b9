"""A run removes the waiting samples that a killed one left, and those of no other run."""

from pathlib import Path

import pytest

from lit.waiting_folder import clear_waiting_folders, waiting_folder


def made(folder: Path) -> Path:
    """A folder with a file, as a killed process leaves it."""
    folder.mkdir(parents=True)
    (folder / "tmpabc").write_text("activations")
    return folder


def test_what_was_left_before_the_run_was_renamed_is_removed_too(tmp_path: Path) -> None:
    before, run = tmp_path / "before", tmp_path / "[a] run"
    for rank in range(2):
        made(waiting_folder(before, rank, None))
    before.rename(run)
    made(waiting_folder(run, 11, None))
    mine = made(run / "waiting-for-review")
    clear_waiting_folders(run, None)
    assert list(run.iterdir()) == [mine]


def test_runs_of_one_relative_name_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        names.add(waiting_folder(Path("run"), 0, tmp_path))
    assert len(names) == 2


def test_other_runs_in_a_folder_of_the_users_choice_are_left_alone(tmp_path: Path) -> None:
    run, scratch = tmp_path / "[a] run", tmp_path / "scratch"
    for rank in (0, 1, 11):
        made(waiting_folder(run, rank, scratch))
    inside = made(waiting_folder(run, 0, None))
    others = {made(waiting_folder(tmp_path / name, 0, scratch)) for name in ("b/[a] run", "run")}
    clear_waiting_folders(run, scratch)
    assert set(scratch.iterdir()) == others
    assert not inside.exists()
