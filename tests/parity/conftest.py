"""Lets the parity tests import their shared reader of recorded steps."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
