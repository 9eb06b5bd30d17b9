"""The command ``python benchmarks/inference``."""

import sys

from benchmarks.inference.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
