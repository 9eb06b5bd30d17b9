"""The command line: configs by name, signals, and one-line errors."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException

from dgq.command_line.console import check_arguments, print_error, print_stop, quieten_libraries
from dgq.command_line.ending import end_unread, expected, is_unread
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
    try:
        with stopping_on_signals(is_first_process()) as stopper, ExitStack() as held:
            check_arguments(args)
            resolved, name = resolve_configs(args)
            CalibrationCLI(resolved, data, Path("outputs") / name, stopper, held)
    except Stopped as stop:
        if not stop.said and is_first_process():
            print_stop(f"{stop.reason}: {HOW_TO_RESUME}")
        return stop.status
    except MisconfigurationException as error:
        print_error(error)
        return 2
    except (BrokenPipeError, SystemExit) as error:
        if not is_unread(error):
            raise
        print_stop(f"stopped by SIGPIPE, nobody reads the output: {HOW_TO_RESUME}")
        return end_unread()
    except Exception as error:
        print_error(explained(expected(error, AFTER_FAILURE, HOW_TO_TAKE_LESS)))
        return 2
    return 0
