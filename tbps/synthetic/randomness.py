"""Random streams keyed by what they are for: the same key gives the same world on any number of workers."""

from __future__ import annotations

import hashlib
import random

import numpy as np


def stream(seed: int, *key: str | int) -> random.Random:
    """A generator that depends on `seed` and `key` only, for discrete choices."""
    return random.Random(_digest(seed, *key))


def noise_stream(seed: int, *key: str | int) -> np.random.Generator:
    """As `stream`, for arrays of numbers."""
    return np.random.Generator(np.random.PCG64(_digest(seed, *key)))


def _digest(seed: int, *key: str | int) -> int:
    joined = "\0".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.blake2b(joined.encode(), digest_size=16).digest(), "little")
