"""Sharing work among processes so that results do not depend on how many there are.

Work is cut into blocks by global index, and a process takes whole consecutive blocks: what is computed together is the
same for any number of processes, so every number is equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Which process this is, of how many."""

    rank: int
    size: int

    @classmethod
    def current(cls) -> Ranks:
        """Of the default process group; 0 of 1 where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(rank=dist.get_rank(), size=dist.get_world_size())
        return cls(rank=0, size=1)

    def shares(self, num_rows: int, *, block: int) -> list[range]:
        """Rows of each process: consecutive, and whole blocks of `block` rows.

        Example: 10 rows in blocks of 4 for 2 processes give [range(0, 4), range(4, 10)].
        """
        blocks = -(-num_rows // block)
        edges = [min(num_rows, blocks * rank // self.size * block) for rank in range(self.size + 1)]
        return [range(start, stop) for start, stop in pairwise(edges)]

    def own_blocks(self, num_rows: int, *, block: int) -> list[range]:
        """The blocks of this process."""
        share = self.shares(num_rows, block=block)[self.rank]
        return [range(start, min(start + block, share.stop)) for start in range(share.start, share.stop, block)]

    def gather(self, local_RX: Tensor, counts: Sequence[int]) -> Tensor:
        """Rows of all processes in rank order; process r brings `counts[r]` rows of equal width and type."""
        assert len(local_RX) == counts[self.rank], "a process brings as many rows as it said"
        if self.size == 1:
            return local_RX
        longest = max(counts)
        padded = local_RX.new_zeros(longest, *local_RX.shape[1:])
        padded[: len(local_RX)] = local_RX
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
