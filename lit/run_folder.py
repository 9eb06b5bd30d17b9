"""The folder of a run: one calibration at a time writes to it, and replaces only its own files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dgq.errors import DGQError
from dgq.hub.evidence import CONFIG_FILE
from dgq.storage.checkpoint import FOLDER, has_model
from dgq.storage.files import remove_leftovers
from dgq.storage.locks import Held, LockedError, is_file_alone, lock_file, locked

CONFIG, LOG, CHECKPOINT = CONFIG_FILE, "log.csv", "last.ckpt"
HEADER = "# Configuration of a calibration, written by it: this folder is its own.\n"
"""First line of the configuration, which identifies a run's folder."""

LAST = "last"


@dataclass(frozen=True)
class Claim:
    """A run's folder that this process alone writes into.

    Args:
        run: the folder.
        held: its lock.
    """

    run: Path
    held: Held

    def check(self) -> None:
        """Raise DGQError if the folder was moved or removed, and may be another's by now."""
        if not self.held.is_here:
            raise DGQError(
                f"{self.run} was moved or removed while this calibration was writing into it: if "
                "it was moved, --run DIR --ckpt_path last resumes it there"
            )


@contextmanager
def claimed(run: Path) -> Iterator[Claim]:
    """Lock a folder against other calibrations, and remove what a killed one left behind.

    Raises:
        DGQError: if another calibration is using it, or it is not writable.
    """
    try:
        with locked(run / "run", wait=False) as held:
            remove_leftovers(run, locked=True)
            remove_leftovers(run / FOLDER, locked=True)
            yield Claim(run, held)
    except LockedError as error:
        file = lock_file(run / "run")
        left = f"; if none is, one on another machine left {file}: remove it"
        raise DGQError(
            f"another calibration is writing into {run}: wait for it, or choose another folder by "
            f"--run DIR{left if is_file_alone(file) else ''}"
        ) from error
    finally:
        with suppress(OSError):  # removes the folder if nothing was written to it
            run.rmdir()


def checkpoint_to_resume(run: Path, resume: str | None) -> Path | None:
    """The checkpoint to resume from; None if the run starts from the beginning.

    Args:
        run: folder of the run.
        resume: ``last``, a file, or None for a new run.

    Raises:
        DGQError: rather than overwrite a run that is not resumed, or other files.
    """
    last, model = run / CHECKPOINT, run / FOLDER
    if resume is not None and resume != LAST:
        given = Path(resume)
        if not given.is_file():
            raise DGQError(
                f"--ckpt_path {resume!r} does not exist: give last, or the file of a checkpoint"
            )
        if given.resolve().parent != run.resolve():
            check_free(run)
        return given
    if resume == LAST and last.is_file():
        return last
    if resume == LAST and has_model(model):
        raise DGQError(
            f"{run} holds a finished model but no {CHECKPOINT}: there is nothing to resume; "
            "choose another folder by --run DIR"
        )
    check_free(run, unless_started=resume == LAST)
    return None


def check_free(run: Path, unless_started: bool = False) -> None:
    """Raise DGQError if a new run would overwrite anything but its own unfinished beginning.

    Args:
        run: folder of the run.
        unless_started: accept the folder of an unfinished model.
    """
    last, model = run / CHECKPOINT, run / FOLDER
    if last.exists() or (model.exists() and not unless_started):
        raise DGQError(
            f"{run} already holds a calibration: resume it by --ckpt_path last, or choose "
            "another folder by --run DIR"
        )
    if is_own(run / CONFIG):
        return
    for file in (run / CONFIG, run / LOG, model):
        if os.path.lexists(file):  # also a link to nothing, where no folder can be made
            raise DGQError(
                f"{file} was not written by a calibration and would be lost: choose another folder "
                "by --run DIR"
            )


def is_own(config: Path) -> bool:
    """Whether a configuration was written by a calibration."""
    try:
        with config.open("rb") as file:
            return file.read(len(HEADER)) == HEADER.encode()
    except OSError:
        return False
