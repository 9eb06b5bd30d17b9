"""Draw what a quantized model does and where it hurts: ``python explain.py outputs/w4a8``."""

import sys

from evaluation.explanation.command_line import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
