"""The small method of the training tests, whose runs fill the folders."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
