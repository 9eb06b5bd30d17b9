"""Setup of each script before its imports, which take seconds; nothing slow is imported here."""

import os
import signal


def end_quietly() -> None:
    """Make Ctrl-C end the process at once, without a traceback, until the command handles it.

    A process that the first of several has started ignores all signals instead, as it will later:
    a terminal sends Ctrl-C to each of them, and the first one ends the others.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored: nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
