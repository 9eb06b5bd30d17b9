"""The command ``python benchmarks/measuring_clip``."""

import sys

from benchmarks.measuring_clip.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
