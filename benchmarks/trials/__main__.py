"""The command ``python benchmarks/trials``."""

import sys

from benchmarks.trials.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
