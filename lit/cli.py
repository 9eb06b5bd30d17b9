"""The command line: configs by name, signals, and one-line errors."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException

from dgq.command_line.console import check_arguments, quieten_libraries
from dgq.command_line.ending import end_unread, ended, is_unread
from dgq.command_line.stopping import Stopped, stopping_on_signals
from lit.calibration_cli import CalibrationCLI
from lit.configs import resolve_configs
from lit.parser_errors import explained
from lit.quiet import quieten_lightning
from lit.samples import Samples
from lit.stopping import HOW_TO_RESUME, is_first_process

AFTER_FAILURE = "free space or fix access, then resume by --ckpt_path last"

HOW_TO_TAKE_LESS = (
    "--model.waiting.place host, or disk, with --ckpt_path last resumes with less of it; a new run "
    "takes less with a smaller --data.micro_batch_size or --data.n_samples"
)


def main(args: Sequence[str], data: type[Samples]) -> int:
    """Run the command line; returns the exit code.

    Args:
        args: arguments without the program's name.
        data: the DataModule class that feeds the calibration.
    """
    quieten_libraries()
    quieten_lightning()
    return ended(lambda: fit(args, data), HOW_TO_RESUME, AFTER_FAILURE, HOW_TO_TAKE_LESS)


def fit(args: Sequence[str], data: type[Samples]) -> None:
    """Run the command line, whose errors are put in terms of what the user wrote."""
    try:
        with stopping_on_signals(is_first_process()) as stopper, ExitStack() as held:
            check_arguments(args)
            resolved, name = resolve_configs(args)
            CalibrationCLI(resolved, data, Path("outputs") / name, stopper, held)
            sys.stdout.flush()
    except (MisconfigurationException, ArgumentError) as error:
        raise explained(error) from error
    except (BrokenPipeError, SystemExit) as error:
        if not is_unread(error):
            raise
        raise Stopped("stopped by SIGPIPE, nobody reads the output", end_unread()) from error
