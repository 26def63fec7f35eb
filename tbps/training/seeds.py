"""Global random numbers (weights at the start, dropout) as a function of the place in training: nothing to save."""

from __future__ import annotations

import hashlib

import torch


def seed_micro_step(*, seed: int, step: int, rank: int, micro: int) -> None:
    """Seed every device's default generator for one forward pass, so that a resumed run drops the same units."""
    digest = hashlib.blake2b(f"{seed}\0{step}\0{rank}\0{micro}\0dropout".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)
