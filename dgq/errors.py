"""The one exception that users are meant to read."""


class DGQError(Exception):
    """Something the user can fix: one line says what was wrong, what was expected, what to do."""


class SettingsError(DGQError, ValueError):
    """A setting outside its domain, found before any work starts."""
