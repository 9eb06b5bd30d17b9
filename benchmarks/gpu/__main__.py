"""The command ``python benchmarks/gpu``."""

import sys

from benchmarks.gpu.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
