"""Global random numbers (weights at the start, dropout) as a function of the place in training: nothing to save."""

from __future__ import annotations

import hashlib

import torch


def seed_micro_step(*, seed: int, step: int, first_group: int) -> None:
    """Seed every device's default generator for one forward pass, so that a resumed run drops the same units.

    The CPU's is the same in all micro-batches of a step, on all processes: it names the places where groups lose units
    (tbps/nn/dropout.py). Those of GPUs follow the first group of the micro-batch, for whoever uses torch's own dropout.
    """
    torch.default_generator.manual_seed(_number(seed, step, "dropout"))
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(_number(seed, step, first_group, "dropout"))


def _number(*key: int | str) -> int:
    digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
