"""A small test split and tiny methods come from the tests of evaluation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
