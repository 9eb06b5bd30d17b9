"""Forked processes, which may be killed or limited, and import nothing again."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data.calibration import CalibrationData
from lit.cli import main

CONTEXT = multiprocessing.get_context("forkserver")
"""Children are forked by a process that has only imported: autograd's threads survive no fork."""
CONTEXT.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Args:
        status: its exit status; a negative one is a signal.
        said: what it wrote to stdout and stderr.
    """

    status: int
    said: str


def calibrate_in_child(
    arguments: Sequence[str], prepare: Callable[[], object], folder: Path
) -> Ended:
    """Run ``train.py``'s command line in a child.

    Args:
        arguments: of the command line.
        prepare: what the child does first; a function that can be pickled.
        folder: for what the child says.
    """
    output = folder / "said.txt"
    given = (arguments, prepare, output, Path.cwd(), torch.get_num_threads())
    child = CONTEXT.Process(target=_calibrate, args=given)
    child.start()
    child.join()
    assert child.exitcode is not None
    return Ended(child.exitcode, output.read_text())


def _calibrate(
    arguments: Sequence[str],
    prepare: Callable[[], object],
    output: Path,
    folder: Path,
    n_threads: int,
) -> None:
    """Exit with the status of the command line, in a working folder."""
    os.chdir(folder)
    torch.set_num_threads(n_threads)
    with output.open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        sys.stdout = sys.stderr = file
        try:
            prepare()
            status = main(arguments, CalibrationData)
        except BaseException:
            traceback.print_exc()
            status = 70
    os._exit(status)
