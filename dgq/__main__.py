"""The command ``python -m dgq``."""

import sys

from dgq.command_line.main import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
