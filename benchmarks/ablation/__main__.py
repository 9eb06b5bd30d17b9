"""The command ``python benchmarks/ablation``."""

import sys

from benchmarks.ablation.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
