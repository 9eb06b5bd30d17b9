"""Starting the other processes of a calibration, and ending all of them when one has died."""

import os
import threading
import time

from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from typing_extensions import override

from dgq.command_line.console import print_error
from dgq.errors import DGQError
from lit.stopping import HOW_TO_RESUME, end_all, how_they_ended

POLL_SECONDS = 1.0
GRACE_SECONDS = 5.0
"""Time for the first process to notice by itself that another has died, and to clean up."""


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
