"""Starting the other processes of a calibration, and ending all of them when one has died."""

import os
import threading
import time

from lightning import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from typing_extensions import override

from dgq.command_line.console import print_error
from dgq.errors import DGQError
from lit.stopping import HOW_TO_RESUME, end_all, how_they_ended, is_first_process

POLL_SECONDS = 1.0
GRACE_SECONDS = 5.0
"""Time for the first process to notice by itself that another has died, and to clean up."""


def check_processes(trainer: Trainer) -> None:
    """Check that processes started by srun or torchrun are those that the Trainer shares among.

    Raises:
        DGQError: in all but the first of several that would each do the whole calibration.
        ValueError: if there are more or fewer than devices.
    """
    if trainer.world_size == 1 and not is_first_process():
        raise DGQError(
            "srun or torchrun started several processes, but --trainer.devices is 1: give their "
            "number, or start one"
        )
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is not None:
        environment.validate_settings(trainer.num_devices, trainer.num_nodes)


class WatchingLauncher(_SubprocessScriptLauncher):
    """Ends the calibration with one line if another process dies, wherever this one waits for it.

    Lightning kills this process too, without a word.
    """

    @override
    def _call_children_scripts(self) -> None:
        """Start the others; Lightning's own observer gets none to watch."""
        super()._call_children_scripts()
        self.children, self.procs = self.procs, []
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not how_they_ended(self.children):
            if all(process.poll() == 0 for process in self.children):
                return
            time.sleep(POLL_SECONDS)
        time.sleep(GRACE_SECONDS)
        ended = how_they_ended(self.children)
        if ended:
            end_all(self.children)
            print_error(DGQError(f"{ended} (out of memory?): {HOW_TO_RESUME}"))
            os._exit(2)  # the main thread may wait in a collective operation, which nothing ends
