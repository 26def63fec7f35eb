"""Lets the tests of the benchmarks import them, and the reader of recorded steps."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "parity")]
sys.path.append(str(ROOT / "tests" / "end_to_end"))  # for processes that begin with their imports done


@pytest.fixture(autouse=True)
def forgotten_precision() -> Iterator[None]:
    """Accelerate remembers the precision of a benchmark's steps; the next test may ask for another one."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
