"""Draw one picture: ``python generate.py "a small red circle" --ckpt outputs/w4a8``."""

import sys

from starting import end_quietly

if __name__ == "__main__":
    end_quietly()
    from evaluation.one_prompt.command_line import main

    sys.exit(main(sys.argv[1:]))
