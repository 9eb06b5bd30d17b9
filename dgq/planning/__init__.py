"""What a calibration would do and take, found without starting it and without weights."""
