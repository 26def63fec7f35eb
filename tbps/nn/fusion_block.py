"""A transformer layer in which tokens attend to a memory: to their own sequence, or to another one.

y = MCA(LN(x), LN(z)) + x;  x' = MLP(LN(y)) + y
Shapes: S sequences of L tokens, K tokens of the memory, R wanted rows, D width.
Source: BAMG (Text-based Person Re-identification via Bottlenecks Attention and Masked Graph
Modeling), Eq. 4 and 5.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tbps.nn.attention import attention, join_heads, mean_attention, split_heads
from tbps.nn.clip_block import initialise, quick_gelu

Rows = int | Tensor | None
"""Rows of a sequence that are wanted: the first so many, those of a table (S, R), or all."""


def pick(x_SLD: Tensor, rows: Rows) -> Tensor:
    """The wanted rows of each sequence: (S, R, D)."""
    if rows is None:
        return x_SLD
    if isinstance(rows, int):
        return x_SLD[:, :rows]
    return x_SLD.gather(1, rows[..., None].expand(-1, -1, x_SLD.shape[2]))


class Attention(nn.Module):
    """Multi-head attention with query, key and value as layers of their own."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, query_SRD: Tensor, memory_SKD: Tensor, bias: Tensor | None) -> Tensor:
        """(S, R, D). bias: (S, 1, 1, K), 0 or a large negative number; None = all of the memory is attended to."""
        parts = self.query(query_SRD), self.key(memory_SKD), self.value(memory_SKD)
        query, key, value = (split_heads(part, self.heads) for part in parts)
        return self.out(join_heads(attention(query, key, value, bias=None if bias is None else bias.to(query.dtype))))

    def weights(self, query_SRD: Tensor, memory_SKD: Tensor, bias: Tensor | None) -> Tensor:
        """How much `forward` attends to each token of the memory, mean over heads: (S, R, K) float32, rows that sum to 1."""
        parts = self.query(query_SRD), self.key(memory_SKD)
        query, key = (split_heads(part, self.heads) for part in parts)
        return mean_attention(query, key, bias=bias)


class FusionBlock(nn.Module):
    """One layer. `own_memory`: tokens attend to their own sequence, and one norm serves both (a plain transformer layer)."""

    def __init__(self, *, width: int, heads: int, quick_gelu: bool, own_memory: bool, layers: int) -> None:
        """layers: how many the encoder has; the more, the smaller what each adds to the residual stream at first."""
        super().__init__()
        self.quick_gelu = quick_gelu
        self.norm1 = nn.LayerNorm(width)
        self.norm_memory: nn.LayerNorm | None = None if own_memory else nn.LayerNorm(width)
        self.attention = Attention(width=width, heads=heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        initialise(self, layers)

    def forward(
        self, x_SLD: Tensor, memory_SKD: Tensor | None = None, *, bias: Tensor | None = None, rows: Rows = None
    ) -> Tensor:
        """(S, L, D), or (S, R, D): the wanted rows; no others are computed behind the keys and values.

        memory_SKD: where tokens look, unless they look at themselves; bias: as of `Attention`, over what is looked at.
        """
        query_SRD, keys_SKD = self._looking(x_SLD, memory_SKD, rows)
        y_SRD = pick(x_SLD, rows) + self.attention(query_SRD, keys_SKD, bias)
        hidden = self.fc1(self.norm2(y_SRD))
        return y_SRD + self.fc2(quick_gelu(hidden) if self.quick_gelu else F.gelu(hidden))

    def weights(self, x_SLD: Tensor, memory_SKD: Tensor | None = None, *, bias: Tensor | None = None) -> Tensor:
        """How much each token attends to each token of the memory, mean over heads: (S, L, K) float32."""
        return self.attention.weights(*self._looking(x_SLD, memory_SKD, None), bias)

    def _looking(self, x_SLD: Tensor, memory_SKD: Tensor | None, rows: Rows) -> tuple[Tensor, Tensor]:
        """Queries after their norm, and the memory after its norm."""
        if self.norm_memory is None:
            keys_SLD = self.norm1(x_SLD)
            return pick(keys_SLD, rows), keys_SLD
        assert memory_SKD is not None
        return self.norm1(pick(x_SLD, rows)), self.norm_memory(memory_SKD)
