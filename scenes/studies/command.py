"""What the studies' commands share: checks of options."""

import argparse

from dgq.settings import check_positive


def check_counts(options: argparse.Namespace, *names: str) -> None:
    """Raise SettingsError unless the options of these names are at least 1."""
    for name in names:
        check_positive("--" + name.replace("_", "-"), getattr(options, name))
