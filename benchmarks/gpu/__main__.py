"""The command ``python benchmarks/gpu``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from gpu.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
