"""Setup of each script before its imports, which take seconds; nothing slow is imported here."""

import signal


def end_quietly() -> None:
    """Make Ctrl-C end the process at once, without a traceback, until the command handles it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored: nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
