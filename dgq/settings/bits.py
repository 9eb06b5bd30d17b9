"""Numbers of bits: 2 to 8, or 16, which stands for floating point."""

from dgq.errors import SettingsError

FLOAT_BITS = 32
"""Number of bits that a tensor kept in floating point counts as."""


def check_bits(name: str, n_bits: int) -> None:
    """Raise SettingsError unless ``n_bits`` is 2 to 8, or 16 (kept in floating point)."""
    if isinstance(n_bits, bool) or not isinstance(n_bits, int):
        raise SettingsError(f"{name} must be a whole number of bits, got {n_bits!r}")
    if n_bits not in (*range(2, 9), 16):
        raise SettingsError(f"{name} must be 2 to 8, or 16 for floating point, got {n_bits}")


def operand_bits(n_bits: int) -> int:
    """Bits that an operand counts as: FLOAT_BITS if its setting is 16, floating point."""
    return FLOAT_BITS if n_bits == 16 else n_bits
