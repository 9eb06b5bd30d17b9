"""Plans of calibrations: what they would do and need, without starting them or reading weights."""
