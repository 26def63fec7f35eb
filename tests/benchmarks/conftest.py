"""Lets the tests of the benchmarks import them, and the reader of recorded steps."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "parity")]
