"""Where every token of many short sequences sits when they are computed without padding.

S sequences are packed one after another, grouped by the image they look at: N tokens in all. Dense layers run on (N, D).
Self-attention runs on a padded view (S, L, D). Cross-attention takes all tokens of an image, whatever sequence they
belong to, as the queries of one dense call (I, Q, D): an image's keys and values are projected once and no mask is needed.
Everything is computed on the host from lengths it knows, and travels to the device in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Index = NDArray[np.int64]


@dataclass(kw_only=True)
class Packing:
    """Index tensors on the device. Padding points at row 0: what it reads is masked or thrown away."""

    position_N: Tensor
    """Place of each packed token in its sequence."""
    first_S: Tensor
    """Packed row of each sequence's [CLS], in the order the sequences were given."""
    grid_SL: Tensor
    """Packed row of token l of sequence s."""
    flat_N: Tensor
    """s * L + l of each packed token: the way back from the padded view."""
    key_bias_SL: Tensor | None
    """(S, 1, 1, L) float: 0 for attended keys, -10000 for others (BERT's own number); None when all are attended."""
    image_grid_IQ: Tensor | None
    """Packed row of query q of image i."""
    image_flat_N: Tensor | None
    """i * Q + q of each packed token."""


@dataclass(kw_only=True)
class Layout:
    """The same on the host, before it travels, with what else must be known there."""

    sequence_N: Index
    """Sequence of each packed token."""
    position_N: Index
    start_S: Index
    """Packed row of each sequence's first token, in the order the sequences were given."""
    tokens_S: Index
    """Computed tokens of each sequence."""
    keys_S: Index
    """Attended tokens of each sequence: the first ones."""
    image_S: Index | None
    num_images: int

    def rows(self, sequence: Index, position: Index) -> Index:
        """Packed rows of tokens given by sequence and position."""
        return self.start_S[sequence] + position

    def to(self, device: torch.device) -> Packing:
        """Index tensors on `device`, in one copy."""
        num_sequences, length = len(self.tokens_S), int(self.tokens_S.max())
        place_L = np.arange(length)
        grid_SL = np.where(place_L < self.tokens_S[:, None], self.start_S[:, None] + place_L, 0)
        parts = [
            self.position_N,
            self.start_S,
            grid_SL.ravel(),
            self.sequence_N * length + self.position_N,
            self.keys_S,
        ]
        queries = 0
        if self.image_S is not None:
            per_image_I = np.bincount(self.image_S, weights=self.tokens_S, minlength=self.num_images).astype(np.int64)
            queries = int(per_image_I.max())
            start_I = np.concatenate([[0], np.cumsum(per_image_I)[:-1]])
            place_Q = np.arange(queries)
            parts.append(np.where(place_Q < per_image_I[:, None], start_I[:, None] + place_Q, 0).ravel())
            image_N = self.image_S[self.sequence_N]
            parts.append(image_N * queries + np.arange(len(image_N)) - start_I[image_N])
        position, first, grid, flat, keys, *image = upload(parts, device)
        return Packing(
            position_N=position,
            first_S=first,
            grid_SL=grid.view(num_sequences, length),
            flat_N=flat,
            key_bias_SL=None if bool((self.keys_S == length).all()) else _key_bias(keys, length),
            image_grid_IQ=image[0].view(self.num_images, queries) if image else None,
            image_flat_N=image[1] if image else None,
        )


def lay_out(
    tokens: Sequence[int] | Index,
    *,
    keys: Sequence[int] | Index | None = None,
    image: Sequence[int] | Index | None = None,
    num_images: int = 0,
) -> Layout:
    """Pack sequences of `tokens[s]` computed and `keys[s]` attended tokens (default: all), grouped by `image[s]`."""
    tokens_S = np.asarray(tokens, dtype=np.int64)
    keys_S = tokens_S if keys is None else np.asarray(keys, dtype=np.int64)
    image_S = None if image is None else np.asarray(image, dtype=np.int64)
    order = np.arange(len(tokens_S)) if image_S is None else np.argsort(image_S, kind="stable")
    start_S = np.empty_like(tokens_S)
    ends = np.cumsum(tokens_S[order])
    start_S[order] = ends - tokens_S[order]
    sequence_N = np.repeat(order, tokens_S[order])
    return Layout(
        sequence_N=sequence_N,
        position_N=np.arange(len(sequence_N)) - start_S[sequence_N],
        start_S=start_S,
        tokens_S=tokens_S,
        keys_S=keys_S,
        image_S=image_S,
        num_images=num_images,
    )


def upload(arrays: Sequence[Index], device: torch.device) -> list[Tensor]:
    """Several int64 arrays to `device` in one copy that does not block."""
    sizes = [array.size for array in arrays]
    joined = torch.from_numpy(np.concatenate([np.ravel(array) for array in arrays]).astype(np.int64, copy=False))
    if device.type == "cuda":
        joined = joined.pin_memory().to(device, non_blocking=True)
    return list(joined.split(sizes))


def _key_bias(keys_S: Tensor, length: int) -> Tensor:
    masked_SL = torch.arange(length, device=keys_S.device) >= keys_S[:, None]
    return (masked_SL * -10_000.0)[:, None, None, :]
