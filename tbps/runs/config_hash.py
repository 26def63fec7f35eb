"""What of a config decides the result: its hash, and the difference between two configs in words."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tbps.config.run import Run
from tbps.config.serialise import to_json


def config_hash(run: Run) -> str:
    """16 hex digits over every field that is not marked `place`."""
    text = json.dumps(to_json(run, place=False), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(old: Run, new: Run) -> list[str]:
    """Every hashed field that differs, as "data.batch_pairs: 8 -> 16"; empty if and only if the hashes agree."""
    return _differences(to_json(old, place=False), to_json(new, place=False), "")


def _differences(old: dict[str, Any], new: dict[str, Any], path: str) -> list[str]:
    if old.get("kind") != new.get("kind"):
        return [f"{path}kind: {old.get('kind')} -> {new.get('kind')}"]
    found = []
    for name, value in old.items():
        if isinstance(value, dict) and isinstance(new[name], dict):
            found += _differences(value, new[name], f"{path}{name}.")
        elif value != new[name]:
            found.append(f"{path}{name}: {value} -> {new[name]}")
    return found
