"""Calibrate a quantized UNet: ``python train.py fit --config w4a8.yaml``."""

import sys

from starting import end_quietly

if __name__ == "__main__":
    end_quietly()
    from data.calibration import CalibrationData
    from lit.cli import main

    sys.exit(main(sys.argv[1:], CalibrationData))
