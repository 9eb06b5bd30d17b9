"""Compare quantized models with full precision: ``python evaluate.py --ckpt outputs/w4a8``."""

import sys

from starting import end_quietly

if __name__ == "__main__":
    end_quietly()
    from evaluation.command_line import main

    sys.exit(main(sys.argv[1:]))
