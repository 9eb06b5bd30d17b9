"""The exception whose messages are meant for users, and one-line forms of others."""


class DGQError(Exception):
    """An error that users can fix: one line says what was wrong, what was expected, what to do."""


class SettingsError(DGQError, ValueError):
    """A setting outside its domain, found before any work starts."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
