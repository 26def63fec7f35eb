"""Captions of a batch as padded token ids.

Shapes: B captions, L tokens of the longest, C chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Captions:
    """Tokenised captions of a batch. They stay on the host: a step lays out its packed sequences from them."""

    token_ids_BL: Tensor
    """(B, L) int64, the tokeniser's padding after the end; L is the longest caption rounded up to a multiple of 8."""
    lengths: tuple[int, ...]
    """Real tokens of each caption, start and end included: what says where it ends, since padding may be a word's id."""
    chunk_id_BL: Tensor
    """(B, L) int64: 0 = in no attribute chunk, c >= 1 = in chunk c of this caption."""
    chunk_weight_BC: Tensor | None = None
    """(B, C) float32: weight of chunk c at column c - 1 (MARS Eq. 14); None = every chunk counts 1."""
    starts_BL: Tensor | None = None
    """(B, L) bool: pieces that begin a word, special tokens and padding too; None where the method does not ask for them."""
    vacuous_BL: Tensor | None = None
    """(B, L) bool: pieces of semantically vacuous words (AGA, Table I); None where the method does not ask for them."""

    @property
    def real_BL(self) -> Tensor:
        """(B, L) bool: no padding."""
        return torch.arange(self.token_ids_BL.shape[1]) < torch.tensor(self.lengths)[:, None]

    def rows(self, rows: range) -> Captions:
        """Some consecutive captions with all that is known of them, still padded to the longest of all."""
        part = slice(rows.start, rows.stop)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        kept: dict[str, Any] = {name: None if value is None else value[part] for name, value in values.items()}
        return Captions(**kept)


def pad_rows(rows: Sequence[Tensor], *, length: int, value: float = 0) -> Tensor:
    """Stack (..., T) tensors of different T into (len(rows), ..., length), filled up with `value`."""
    out = torch.full((len(rows), *rows[0].shape[:-1], length), value, dtype=rows[0].dtype)
    for row, tensor in enumerate(rows):
        out[row, ..., : tensor.shape[-1]] = tensor
    return out
