"""Draw what a quantized model does and loses, and where: ``python explain.py outputs/w4a8``."""

import sys

from starting import end_quietly

if __name__ == "__main__":
    end_quietly()
    from evaluation.explanation.command_line import main

    sys.exit(main(sys.argv[1:]))
