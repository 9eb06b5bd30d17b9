"""The command ``python benchmarks/likeness``."""

import sys

from benchmarks.likeness.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
