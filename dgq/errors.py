"""The one exception that users are meant to read."""


class DGQError(Exception):
    """Something the user can mend: the message says what was wrong, expected, and to be done."""


class SettingsError(DGQError, ValueError):
    """A setting outside its domain, found before any work starts."""
