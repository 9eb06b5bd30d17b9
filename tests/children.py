"""Calibrations in forked processes, which may be killed or limited, and need no imports."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from data.calibration import CalibrationData
from lit.cli import main

forks = pytest.mark.skipif(
    torch.cuda.is_available(), reason="threads of autograd, one a GPU, do not survive a fork"
)


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
        prepare: what the child does first, without effect on this process.
        folder: for what the child says.
    """
    output = folder / "said.txt"
    child = os.fork()
    if child == 0:
        os._exit(_calibrate(arguments, prepare, output))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(status, output.read_text())


def _calibrate(arguments: Sequence[str], prepare: Callable[[], object], output: Path) -> int:
    """The exit status; nothing may return into the test that was forked."""
    with output.open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        sys.stdout = sys.stderr = file
        try:
            prepare()
            return main(arguments, CalibrationData)
        except BaseException:
            traceback.print_exc()
            return 70
