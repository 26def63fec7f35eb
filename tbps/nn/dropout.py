"""Dropout. On a CPU, torch spends 20 ns on the random number of an element, as long as on 2000 multiply-adds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 1 << 16


def drop(x: Tensor, probability: float, training: bool = True) -> Tensor:
    """x with entries zeroed with `probability` and the others divided by the share that is kept.

    On a CPU four 16-bit numbers are cut from each random word: the probability is rounded to a multiple of 2**-16 (0.1 is
    0.100006), the division follows it, and a byte per element is kept for backward instead of four.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    dropped = round(probability * _LEVELS)
    word = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = word.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _LEVELS // 2
    return (x * keep) * (_LEVELS / (_LEVELS - dropped))
