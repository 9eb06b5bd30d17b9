"""Checks of options that the studies' commands share."""

import argparse

from dgq.settings import check_positive


def check_counts(options: argparse.Namespace, *names: str) -> None:
    """Raise SettingsError unless each of the named options is at least 1."""
    for name in names:
        check_positive("--" + name.replace("_", "-"), getattr(options, name))
