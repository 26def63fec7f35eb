"""Attribute loss: every adjective-noun chunk of a caption is matched with the image on its own.

Shapes: R = 3B matching rows, M chunks of all rows, T tokens of the longest chunk, D width, C chunks of a caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@dataclass(kw_only=True)
class ChunkTable:
    """Chunks of the matching rows, on the host."""

    row_M: NDArray[np.int64]
    """Matching row of each chunk."""
    position_MT: NDArray[np.int64]
    """Token positions of each chunk in its caption; beyond its tokens 0."""
    present_MT: NDArray[np.float32]
    """1 where position_MT holds a token of the chunk."""
    weight_M: NDArray[np.float32]
    """Share of the chunk in the loss."""


def chunk_table(
    chunk_id_BL: NDArray[np.int64],
    caption_R: NDArray[np.int64],
    *,
    has_negative_B: NDArray[np.bool_],
    group_pairs: int,
    chunk_weight_BC: NDArray[np.float32] | None = None,
) -> ChunkTable:
    """Lay out the chunks of the captions that the matching rows show.

    Weight of a chunk = omega / (chunks of its row * rows of its group that have a chunk * groups): mean over the chunks of
    a row, over the rows that have one, over groups. chunk_id_BL (B, L): 0 or chunk number; caption_R (3B,): caption shown
    in each matching row; rows of pairs without a negative are left out.
    """
    num_pairs = len(has_negative_B)
    tokens_of = [_chunks(row) for row in chunk_id_BL]
    kept_R = np.concatenate([np.ones(num_pairs, bool), has_negative_B, has_negative_B])
    group_R = np.tile(np.arange(num_pairs) // group_pairs, 3)
    rows = [row for row, caption in enumerate(caption_R) if kept_R[row] and tokens_of[caption]]
    rows_of_group = np.bincount(group_R[rows], minlength=num_pairs // group_pairs) if rows else np.zeros(1)
    chunks = [(row, number, tokens) for row in rows for number, tokens in tokens_of[caption_R[row]]]
    longest = max((len(tokens) for _, _, tokens in chunks), default=1)
    position_MT = np.zeros((len(chunks), longest), np.int64)
    present_MT = np.zeros((len(chunks), longest), np.float32)
    weight_M = np.zeros(len(chunks), np.float32)
    for place, (row, number, tokens) in enumerate(chunks):
        position_MT[place, : len(tokens)] = tokens
        present_MT[place, : len(tokens)] = 1
        omega = 1.0 if chunk_weight_BC is None else float(chunk_weight_BC[caption_R[row], number - 1])
        num_groups = num_pairs // group_pairs
        weight_M[place] = omega / (len(tokens_of[caption_R[row]]) * rows_of_group[group_R[row]] * num_groups)
    row_M = np.array([row for row, _, _ in chunks], np.int64)
    return ChunkTable(row_M=row_M, position_MT=position_MT, present_MT=present_MT, weight_M=weight_M)


def chunk_vectors(hidden_ND: Tensor, row_MT: Tensor, present_MT: Tensor) -> Tensor:
    """Mean state of each chunk's tokens: (M, D). hidden_ND states; row_MT their rows; present_MT 1 or 0."""
    token_MTD = hidden_ND.index_select(0, row_MT.flatten()).view(*row_MT.shape, hidden_ND.shape[1])
    return (token_MTD * present_MT[..., None]).sum(1) / present_MT.sum(1, keepdim=True)


def attribute_loss(logit_M2: Tensor, *, matched_M: Tensor, weight_M: Tensor) -> Tensor:
    """sum_m w_m CE(logit_m, matched_m), with the weights of `chunk_table`; 0 when no caption has a chunk.

    logit_M2 (M, 2): the matching head on chunk vectors; matched_M (M,) int64: 1 in positive rows.
    Source: MARS (arXiv 2407.04287), Eq. 13 (uniform) and 15 (omega). Differs as the official code: rows without a chunk are
    not counted in the mean, where Eq. 13 divides by 3B.
    """
    return (weight_M * F.cross_entropy(logit_M2.float(), matched_M, reduction="none")).sum()


def _chunks(chunk_id_L: NDArray[np.int64]) -> Sequence[tuple[int, NDArray[np.int64]]]:
    numbers = np.unique(chunk_id_L)
    return [(int(number), np.flatnonzero(chunk_id_L == number)) for number in numbers if number > 0]
