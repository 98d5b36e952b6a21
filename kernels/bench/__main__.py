"""`python -m kernels.bench`: what `fairgate bench kernels` does, where only torch is installed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kernels.bench.report import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description="The kernels on this machine.")
    parser.add_argument("--out", type=Path, default=Path("out/kernels"), help="folder for kernels.md and kernels.json")
    sys.exit(main(parser.parse_args().out))
