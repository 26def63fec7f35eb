"""Dropout of which a group of pairs loses the same units whatever other groups are computed beside it.

A group's random numbers are keyed by (site, group). The site is the next number of torch's CPU generator, which a step seeds
alike in all of its micro-batches, on all processes; activation checkpointing turns that generator back when it computes a
layer again. The group is its number in the global batch. What is dropped must hold the group alone: its rows, and its own
padding. CPU and GPU drop different units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_LEVELS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Which rows of a tensor belong to which group: all rows of a group, then all of the next one."""

    numbers: tuple[int, ...]
    """Number of each group in the global batch."""
    rows: tuple[int, ...]
    """Rows of each group."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place of a forward pass where units are dropped, in all groups."""

    probability: float
    """0 = nothing is dropped."""
    key: int = 0
    part: int = 0
    """Of a group whose rows are computed in several parts: each has random numbers of its own."""

    @staticmethod
    def next(probability: float, training: bool = True) -> Site:
        """A site of its own: every call differs, and repeats itself with the state of torch's CPU generator."""
        if not training or probability == 0.0:
            return Site(probability=0.0)
        # Not item(): on the host already, and it looks like a wait for the device.
        return Site(probability=probability, key=int(torch.empty(1, dtype=torch.int64).random_().numpy()[0]))

    def of_part(self, part: int) -> Site:
        """The same place for one part of each group's rows."""
        return self if part == self.part else replace(self, part=part)

    def seed(self, group: int) -> np.random.SeedSequence:
        """Where the random numbers of `group` come from."""
        return np.random.SeedSequence([self.key, group, self.part])

    def seed_device(self, device: torch.device, group: int) -> None:
        """Let the next kernel that draws on `device` draw the numbers of `group`. The host waits for nothing."""
        generator = torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index]
        generator.manual_seed(int(self.seed(group).generate_state(1, np.uint64)[0]))


def drop(x: Tensor, site: Site, groups: Groups) -> Tensor:
    """x, rows first, with entries zeroed with the site's probability and the others divided by the share that is kept.

    On a CPU four 16-bit numbers are cut from each random word: the probability is rounded to a multiple of 2**-16 (0.1 is
    0.100006), the division follows it, and a byte per element is kept for backward instead of four.
    """
    if site.probability == 0.0:
        return x
    if x.device.type != "cpu":
        return drop_by_device(x, site, groups)
    sizes = [rows * x[0].numel() for rows in groups.rows]
    parts = [_random_int16(site.seed(number), size) for number, size in zip(groups.numbers, sizes, strict=True)]
    random = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts)).view(x.shape)
    dropped = round(site.probability * _LEVELS)
    return (x * (random >= dropped - _LEVELS // 2)) * (_LEVELS / (_LEVELS - dropped))


def drop_rows(x: Tensor, site: Site, groups: Groups) -> Tensor:
    """x with whole rows zeroed with the site's probability and the others divided by the share that is kept.

    Left out so, a residual branch is skipped for an image ("stochastic depth", arXiv 1603.09382).
    """
    if site.probability == 0.0:
        return x
    kept_B1 = drop(torch.ones(len(x), 1, device=x.device), site, groups)
    return x * kept_B1.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def drop_by_device(x: Tensor, site: Site, groups: Groups) -> Tensor:
    """`drop` by torch's own kernel, one call a group."""
    parts = []
    for number, part in zip(groups.numbers, x.split(groups.rows), strict=True):
        site.seed_device(x.device, number)
        parts.append(F.dropout(part, site.probability))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _random_int16(seed: np.random.SeedSequence, size: int) -> NDArray[np.int16]:
    words: NDArray[np.uint64] = np.random.SFC64(seed).random_raw(-(-size // 4))
    return words.view(np.int16)[:size]
