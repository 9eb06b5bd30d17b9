"""Calibrate a quantized UNet: ``python train.py fit --config w4a8.yaml``."""

import sys

from data.calibration import CalibrationData
from lit.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], CalibrationData))
