"""The command ``python benchmarks/damage``."""

import sys

from benchmarks.damage.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
