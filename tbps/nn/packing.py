"""Where every token of many short sequences sits when they are computed without padding.

S sequences are packed one after another, sorted by their group of pairs and by the image they look at: N tokens in all.
Dense layers run on (N, D). Attention is computed group by group, so that neither its padding nor its dropout knows which
groups are computed together: self-attention on a padded view (S, L, D); cross-attention takes all tokens of an image,
whatever sequence they belong to, as the queries of one dense call (I, Q, D): an image's keys and values are projected once
and no mask is needed. Everything is computed on the host from lengths it knows, and travels to the device in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps.nn.dropout import Groups

Index = NDArray[np.int64]


@dataclass(kw_only=True)
class GroupView:
    """The padded views of one group: its S sequences and its I images alone."""

    group: int
    """Number of the group in the global batch."""
    grid_SL: Tensor
    """Packed row of token l of sequence s."""
    key_bias_SL: Tensor | None
    """(S, 1, 1, L) float: 0 for attended keys, -10000 for others (BERT's own number); None when all are attended."""
    images: slice
    """The group's images among all."""
    image_grid_IQ: Tensor | None
    """Packed row of query q of image i."""


@dataclass(kw_only=True)
class Packing:
    """Index tensors on the device. Padding points at row 0: what it reads is masked or thrown away."""

    position_N: Tensor
    """Place of each packed token in its sequence."""
    first_S: Tensor
    """Packed row of each sequence's [CLS], in the order the sequences were given."""
    grid_SL: Tensor
    """Packed row of token l of sequence s: all sequences, in the order they were given."""
    key_bias_SL: Tensor | None
    """As a view's, for all sequences."""
    views: list[GroupView]
    """By group."""
    flat_N: Tensor
    """Row of each packed token in the views' (S, L) rows, laid one after another: the way back."""
    image_flat_N: Tensor | None
    """The same in the views' (I, Q) rows."""
    groups: Groups
    """Of the packed tokens."""


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
    group_S: Index
    """Group of each sequence."""
    image_S: Index | None
    num_images: int

    def rows(self, sequence: Index, position: Index) -> Index:
        """Packed rows of tokens given by sequence and position."""
        return self.start_S[sequence] + position

    def to(self, device: torch.device) -> Packing:
        """Index tensors on `device`, in one copy."""
        numbers, rows = np.unique(self.group_S[self.sequence_N], return_counts=True)
        members = [np.flatnonzero(self.group_S == number) for number in numbers]
        # All sequences come last, unless they are those of the only group.
        parts = members if len(members) == 1 else [*members, np.arange(len(self.tokens_S))]
        grids = [_grid(self.start_S[part], self.tokens_S[part]) for part in parts]
        images = self._images(members)
        image_grids: list[_Grid] = []
        if self.image_S is not None:
            tokens_I = np.bincount(self.image_S, weights=self.tokens_S, minlength=self.num_images).astype(np.int64)
            start_I = np.cumsum(tokens_I) - tokens_I
            image_grids = [_grid(start_I[part], tokens_I[part]) for part in images]
        position, first, flat, image_flat, *sent = upload(
            [
                self.position_N,
                self.start_S,
                _places(grids[: len(members)]),
                _places(image_grids),
                *(grid.row for grid in (*grids, *image_grids)),
                *(self.keys_S[part] for part in parts),
            ],
            device,
        )
        on_device = [row.view(grid.row.shape) for row, grid in zip(sent, (*grids, *image_grids))]
        biases = [
            None if bool((self.keys_S[part] == grid.row.shape[1]).all()) else _key_bias(keys, grid.row.shape[1])
            for part, grid, keys in zip(parts, grids, sent[len(on_device) :], strict=True)
        ]
        image_rows: list[Tensor | None] = [*on_device[len(grids) :]] or [None] * len(members)
        views = [
            GroupView(group=int(number), grid_SL=grid, key_bias_SL=bias, images=part, image_grid_IQ=image_grid)
            for number, grid, bias, part, image_grid in zip(numbers, on_device, biases, images, image_rows)
        ]
        return Packing(
            position_N=position,
            first_S=first,
            grid_SL=on_device[len(grids) - 1],
            key_bias_SL=biases[-1],
            views=views,
            flat_N=flat,
            image_flat_N=image_flat if image_grids else None,
            groups=Groups(numbers=tuple(numbers.tolist()), rows=tuple(rows.tolist())),
        )

    def _images(self, members: list[Index]) -> list[slice]:
        """The images of each group: from its first one to that of the next group."""
        if self.image_S is None:
            return [slice(0)] * len(members)
        firsts = [0, *(int(self.image_S[part].min()) for part in members[1:]), self.num_images]
        assert all(int(self.image_S[part].max()) < end for part, end in zip(members, firsts[1:])), "groups share an image"
        return [slice(start, end) for start, end in pairwise(firsts)]


def lay_out(
    tokens: Sequence[int] | Index,
    *,
    keys: Sequence[int] | Index | None = None,
    group: Sequence[int] | Index | None = None,
    image: Sequence[int] | Index | None = None,
    num_images: int = 0,
) -> Layout:
    """Pack sequences of `tokens[s]` computed and `keys[s]` attended tokens (default: all), sorted by `image[s]`.

    group[s]: number of the sequence's group in the global batch (default: all are of group 0). Images are sorted by group.
    """
    tokens_S = np.asarray(tokens, dtype=np.int64)
    keys_S = tokens_S if keys is None else np.asarray(keys, dtype=np.int64)
    group_S = np.zeros_like(tokens_S) if group is None else np.asarray(group, dtype=np.int64)
    image_S = None if image is None else np.asarray(image, dtype=np.int64)
    order = np.argsort(group_S if image_S is None else image_S, kind="stable")
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
        group_S=group_S,
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


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Rows of packed tokens, one below the other, filled up to the longest."""

    row: Index
    """(R, W) packed rows; 0 in the padding."""
    real: NDArray[np.bool_]
    """(R, W): no padding."""


def _grid(start_R: Index, tokens_R: Index) -> _Grid:
    place_W = np.arange(int(tokens_R.max()))
    real_RW = place_W < tokens_R[:, None]
    return _Grid(row=np.where(real_RW, start_R[:, None] + place_W, 0), real=real_RW)


def _places(grids: list[_Grid]) -> Index:
    """Of each packed token, its place in all grids laid one after another."""
    if not grids:
        return np.zeros(0, np.int64)
    row, real = (np.concatenate([part.ravel() for part in parts]) for parts in zip(*((g.row, g.real) for g in grids)))
    places = np.flatnonzero(real)
    found = np.empty_like(places)
    found[row[places]] = places
    return found


def _key_bias(keys_S: Tensor, length: int) -> Tensor:
    masked_SL = torch.arange(length, device=keys_S.device) >= keys_S[:, None]
    return (masked_SL * -10_000.0)[:, None, None, :]
