"""The recorded numbers that parity tests compare with: those beside this file, or those in the folder TBPS_PARITY.

Every setting of a recording (sizes, loss weights, probabilities, how many images, rates) stands in its JSON, and the tests
take it from there, so that other recordings of the same form and the same file names can be run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(os.environ.get("TBPS_PARITY") or Path(__file__).parent)
TABLES = "optimizer_and_schedule_of_this_vector"


def settings(name: str) -> dict[str, Any]:
    """What a recording says of itself; empty where the folder has none of this name."""
    path = FOLDER / f"{name}.json"
    facts: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return facts


def recording(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a recording says of itself, and its tensors. A test is skipped where the folder has none of this name."""
    facts = settings(name)
    if not facts:
        pytest.skip(f"{FOLDER} has no recording {name}")
    return facts, load_file(FOLDER / f"{name}.safetensors")
