"""Compare quantized models with full precision: ``python evaluate.py --ckpt outputs/w4a8``."""

import sys

from evaluation.command_line import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
