"""Draw one picture: ``python generate.py "a small red circle" --ckpt outputs/w4a8``."""

import sys

from evaluation.one_prompt.command_line import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
