"""Where every token of many short sequences sits when they are computed without padding.

S sequences are packed one after another, sorted by their group of pairs and by the image they look at: N tokens in all.
Dense layers run on (N, D). Attention is computed group by group, so that neither its padding nor its dropout knows which
groups are computed together: self-attention on padded views (S, L, D) of sequences of about one length; cross-attention
takes all tokens of an image, whatever sequence they belong to, as the queries of one dense call (I, Q, D): an image's keys
and values are projected once and no mask is needed. A last layer may compute the R rows alone that somebody reads.
Everything is computed on the host from lengths it knows, and travels to the device in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tbps.nn.buckets import buckets
from tbps.nn.dropout import Groups
from tbps.nn.padded_view import PaddedView

Index = NDArray[np.int64]
_MASKED = -10_000.0
"""Added to the logits of keys that are not attended (BERT's own number)."""


@dataclass(kw_only=True)
class Bucket:
    """The padded view of S sequences of one group, all of about one length: Q computed rows and L keys of each."""

    group: int
    """Number of the group in the global batch."""
    number: int
    """Among the buckets of the group."""
    queries: tuple[int, int]
    """S and Q."""
    keys: tuple[int, int]
    """S and L."""
    key_bias_SL: Tensor | None
    """(S, 1, 1, L) float: 0 for attended keys, -10000 for others; None when all are attended."""


@dataclass(kw_only=True)
class ImageView:
    """The queries of one group, image by image."""

    group: int
    queries: tuple[int, int]
    """The group's images I, and Q queries of each."""


@dataclass(kw_only=True)
class Rows:
    """The R rows that a layer computes, and how its attention finds them."""

    row_R: Tensor | None
    """Their packed rows, ascending; None: all rows are computed."""
    first_S: Tensor
    """Place of each sequence's [CLS] among them, in the order the sequences were given. Of a sequence whose [CLS] is not
    among them it says nothing."""
    buckets: list[Bucket]
    queries: PaddedView
    """The computed rows as queries of all buckets: their (S, Q) places, laid one after another."""
    key_T: Tensor
    """Packed row of each key of all buckets, (S, L); where all rows are computed, keys lie as queries do."""
    images: list[ImageView]
    by_image: PaddedView | None
    """The computed rows as queries of all images, (I, Q) by group; None where nothing looks at images."""
    groups: Groups

    def pick(self, x_ND: Tensor) -> Tensor:
        """These rows of packed states: (R, D)."""
        return x_ND if self.row_R is None else x_ND.index_select(0, self.row_R)


@dataclass(kw_only=True)
class Packing:
    """Index tensors on the device."""

    position_N: Tensor
    """Place of each packed token in its sequence."""
    first_S: Tensor
    """Packed row of each sequence's [CLS], in the order the sequences were given."""
    grid_SL: Tensor
    """Packed row of token l of sequence s: all sequences, in the order they were given."""
    key_bias_SL: Tensor | None
    """As a bucket's, for all sequences."""
    view: PaddedView
    """The same: grid_SL's rows, laid one after another, and the way back."""
    all: Rows
    read: Rows
    """What is read behind the last layer; `all` unless it was told."""


@dataclass(kw_only=True)
class Layout:
    """The same on the host, before it travels, with what else must be known there."""

    sequence_N: Index
    """Sequence of each packed token."""
    position_N: Index
    order_S: Index
    """The sequences in the order they are packed."""
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
    group_I: Index | None
    """Group of each image, ascending; None: each group's images begin with the first that a sequence of it looks at."""

    def rows(self, sequence: Index, position: Index) -> Index:
        """Packed rows of tokens given by sequence and position."""
        return self.start_S[sequence] + position

    def to(self, device: torch.device, *, read: Index | None = None) -> Packing:
        """Index tensors on `device`, in one copy. read: packed rows that are read behind the last layer (default: all)."""
        parcel = Parcel()
        whole_SL = _grid(self.start_S, self.tokens_S)
        length = whole_SL.shape[1]
        position, whole = parcel.add(self.position_N), parcel.add(whole_SL)
        first, keys = parcel.add(self.start_S), parcel.add(self.keys_S)
        flat = parcel.add(self.sequence_N * length + self.position_N)
        every = _RowPlan(self, None, parcel, device.type)
        some = None if read is None else _RowPlan(self, np.unique(read), parcel, device.type)
        sent = parcel.send(device)
        all_rows = every.rows(sent)
        return Packing(
            position_N=sent[position],
            first_S=sent[first],
            grid_SL=sent[whole],
            key_bias_SL=None if bool((self.keys_S == length).all()) else _key_bias(sent[keys], length),
            view=PaddedView.of(sent[whole].flatten(), sent[flat]),
            all=all_rows,
            read=all_rows if some is None else some.rows(sent),
        )


class _RowPlan:
    """Puts what `Rows` holds into a parcel, and takes it out again."""

    def __init__(self, layout: Layout, row_R: Index | None, parcel: Parcel, device_type: str) -> None:
        self.layout, self.parcel, self.device_type = layout, parcel, device_type
        self.sequence_R = layout.sequence_N if row_R is None else layout.sequence_N[row_R]
        self.row = None if row_R is None else parcel.add(row_R)
        num_rows = len(self.sequence_R)
        self.queries_S = layout.tokens_S
        if row_R is not None:
            self.queries_S = np.bincount(self.sequence_R, minlength=len(layout.tokens_S)).astype(np.int64)
        self.start_S = np.empty_like(self.queries_S)  # of each sequence's rows among the computed ones
        ends = np.cumsum(self.queries_S[layout.order_S])
        self.start_S[layout.order_S] = ends - self.queries_S[layout.order_S]
        self.first = parcel.add(np.minimum(self.start_S, max(num_rows - 1, 0)))
        self.buckets: list[tuple[int, int, Index, int]] = []
        keys, query_T, flat_S, place = [], [], np.zeros_like(self.start_S), 0
        for group, members in _by_group(layout.group_S):
            cut = buckets(self.queries_S[members], layout.tokens_S[members], device_type=device_type)
            for number, part in enumerate(cut):
                chosen = members[part]
                keys.append(_grid(layout.start_S[chosen], layout.tokens_S[chosen]))
                query = keys[-1] if row_R is None else _grid(self.start_S[chosen], self.queries_S[chosen])
                query_T.append(query)
                flat_S[chosen] = place + np.arange(len(chosen)) * query.shape[1]
                place += query.size
                self.buckets.append((group, number, chosen, parcel.add(layout.keys_S[chosen])))
        self.shapes = [(_shape(query), _shape(key)) for query, key in zip(query_T, keys, strict=True)]
        self.key = self.query = parcel.add(_joined(keys))
        if row_R is not None:
            self.query = parcel.add(_joined(query_T))
        self.flat = parcel.add(flat_S[self.sequence_R] + np.arange(num_rows) - self.start_S[self.sequence_R])
        groups, rows = np.unique(layout.group_S[self.sequence_R], return_counts=True)
        self.groups = Groups(numbers=tuple(groups.tolist()), rows=tuple(rows.tolist()))
        self._plan_images()

    def _plan_images(self) -> None:
        layout = self.layout
        self.images: list[ImageView] = []
        self.image_flat: int | None = None
        if layout.image_S is None:
            return
        queries_I = np.bincount(layout.image_S, weights=self.queries_S, minlength=layout.num_images).astype(np.int64)
        start_I = np.cumsum(queries_I) - queries_I
        grids, flat_I, place = [], np.zeros_like(start_I), 0
        for group, part in _images_by_group(layout):
            grid_IQ = _grid(start_I[part], queries_I[part], few=self.device_type == "cuda")
            flat_I[part] = place + np.arange(len(grid_IQ)) * grid_IQ.shape[1]
            place += grid_IQ.size
            grids.append(grid_IQ)
            self.images.append(ImageView(group=group, queries=_shape(grid_IQ)))
        image_R = layout.image_S[self.sequence_R]
        self.image = self.parcel.add(_joined(grids))
        self.image_flat = self.parcel.add(flat_I[image_R] + np.arange(len(image_R)) - start_I[image_R])

    def rows(self, sent: list[Tensor]) -> Rows:
        """What was put into the parcel, as it arrived."""
        found = []
        for (group, number, chosen, keys), (queries, shape) in zip(self.buckets, self.shapes, strict=True):
            everything = bool((self.layout.keys_S[chosen] == shape[1]).all())
            bias = None if everything else _key_bias(sent[keys], shape[1])
            found.append(Bucket(group=group, number=number, queries=queries, keys=shape, key_bias_SL=bias))
        return Rows(
            row_R=None if self.row is None else sent[self.row],
            first_S=sent[self.first],
            buckets=found,
            queries=PaddedView.of(sent[self.query], sent[self.flat]),
            key_T=sent[self.key],
            images=self.images,
            by_image=None if self.image_flat is None else PaddedView.of(sent[self.image], sent[self.image_flat]),
            groups=self.groups,
        )


def lay_out(
    tokens: Sequence[int] | Index,
    *,
    keys: Sequence[int] | Index | None = None,
    group: Sequence[int] | Index | None = None,
    image: Sequence[int] | Index | None = None,
    num_images: int = 0,
    image_group: Index | None = None,
) -> Layout:
    """Pack sequences of `tokens[s]` computed and `keys[s]` attended tokens (default: all), sorted by `image[s]`.

    group[s]: number of the sequence's group in the global batch (default: all are of group 0). Images are sorted by group;
    image_group: that of each image, needed where nothing may look at a group's first images.
    """
    tokens_S = np.asarray(tokens, dtype=np.int64)
    keys_S = tokens_S if keys is None else np.asarray(keys, dtype=np.int64)
    group_S = np.zeros_like(tokens_S) if group is None else np.asarray(group, dtype=np.int64)
    image_S = None if image is None else np.asarray(image, dtype=np.int64)
    order_S = np.argsort(group_S if image_S is None else image_S, kind="stable")
    start_S = np.empty_like(tokens_S)
    ends = np.cumsum(tokens_S[order_S])
    start_S[order_S] = ends - tokens_S[order_S]
    sequence_N = np.repeat(order_S, tokens_S[order_S])
    return Layout(
        sequence_N=sequence_N,
        position_N=np.arange(len(sequence_N)) - start_S[sequence_N],
        order_S=order_S,
        start_S=start_S,
        tokens_S=tokens_S,
        keys_S=keys_S,
        group_S=group_S,
        image_S=image_S,
        num_images=num_images,
        group_I=image_group,
    )


class Parcel:
    """Arrays that travel to a device together."""

    def __init__(self) -> None:
        self._arrays: list[Index] = []

    def add(self, array: Index) -> int:
        """Put an array in; returns its number among what `send` returns."""
        self._arrays.append(array)
        return len(self._arrays) - 1

    def send(self, device: torch.device) -> list[Tensor]:
        """All of them on `device`, in their shapes."""
        return [sent.view(array.shape) for sent, array in zip(upload(self._arrays, device), self._arrays, strict=True)]


def upload(arrays: Sequence[Index], device: torch.device) -> list[Tensor]:
    """Several int64 arrays to `device` in one copy that does not block."""
    sizes = [array.size for array in arrays]
    joined = torch.from_numpy(np.concatenate([np.ravel(array) for array in arrays]).astype(np.int64, copy=False))
    if device.type == "cuda":
        joined = joined.pin_memory().to(device, non_blocking=True)
    return list(joined.split(sizes))


def padded_packing(length_B: Tensor, shape: Sequence[int]) -> Packing:
    """Where the tokens of padded captions lie when padding is computed too: row b * L + l.

    length_B: tokens of each caption that are attended, the first ones; shape: of the ids, (B, L). For exported graphs, in
    which no host lays anything out.
    """
    captions, tokens = shape
    place_L = torch.arange(tokens, device=length_B.device)
    first_B = torch.arange(captions, device=length_B.device) * tokens
    grid_BL = first_B[:, None] + place_L
    bias_B11L = ((place_L >= length_B[:, None]) * _MASKED)[:, None, None, :]
    flat_N, size = grid_BL.flatten(), (captions, tokens)
    rows = Rows(
        row_R=None,
        first_S=first_B,
        buckets=[Bucket(group=0, number=0, queries=size, keys=size, key_bias_SL=bias_B11L)],
        queries=PaddedView.of(flat_N, flat_N),
        key_T=flat_N,
        images=[],
        by_image=None,
        groups=Groups(numbers=(0,), rows=(captions * tokens,)),
    )
    return Packing(
        position_N=place_L.expand(captions, tokens).flatten(),
        first_S=first_B,
        grid_SL=grid_BL,
        key_bias_SL=bias_B11L,
        view=rows.queries,
        all=rows,
        read=rows,
    )


def widened(packing: Packing, *, rows: int, multiple: int) -> Packing:
    """The view of all sequences with so many more packed rows behind the others, and a width that is a multiple: made on the
    device, where shapes must be few. What `all` and `read` say stays as it was.

    An added row lies in padding, of which every sequence has some then: nothing attends to it, and no gradient comes back.
    """
    sequences, length = packing.grid_SL.shape
    width = (length // multiple + 1) * multiple
    grid_SL = F.pad(packing.grid_SL, (0, width - length))
    place_N = packing.view.place_N
    place_N = place_N.div(length, rounding_mode="floor") * width + place_N.remainder(length)
    padding_T1 = torch.ones(sequences * width, 1, dtype=torch.bool, device=place_N.device).index_fill_(0, place_N, 0)
    bias_SL = packing.key_bias_SL
    if bias_SL is None:
        bias_SL = torch.zeros(sequences, 1, 1, length, device=place_N.device)
    return replace(
        packing,
        grid_SL=grid_SL,
        key_bias_SL=F.pad(bias_SL, (0, width - length), value=_MASKED),
        view=PaddedView(row_T=grid_SL.flatten(), place_N=F.pad(place_N, (0, rows), value=width - 1), padding_T1=padding_T1),
    )


def _by_group(group_S: Index) -> list[tuple[int, Index]]:
    """Number and members of each group."""
    return [(int(number), np.flatnonzero(group_S == number)) for number in np.unique(group_S)]


def _images_by_group(layout: Layout) -> list[tuple[int, slice]]:
    """Number and images of each group: from its first image to that of the next group."""
    image_S, groups = layout.image_S, _by_group(layout.group_S)
    assert image_S is not None
    if layout.group_I is not None:
        numbers, firsts = np.unique(layout.group_I, return_index=True)
        edges = [*firsts.tolist(), layout.num_images]
        return [(int(number), slice(*edge)) for number, edge in zip(numbers, pairwise(edges), strict=True)]
    edges = [0, *(int(image_S[members].min()) for _, members in groups[1:]), layout.num_images]
    assert all(int(image_S[members].max()) < end for (_, members), end in zip(groups, edges[1:])), "groups share an image"
    return [(number, slice(start, end)) for (number, _), (start, end) in zip(groups, pairwise(edges), strict=True)]


def _grid(start_R: Index, tokens_R: Index, *, few: bool = False) -> Index:
    """(R, W): so many numbers from each start, one row below the other, 0 behind them. few: W is `_one_of_few`."""
    most = int(tokens_R.max())
    place_W = np.arange(_one_of_few(most) if few else most)
    return np.where(place_W < tokens_R[:, None], start_R[:, None] + place_W, 0)


def _one_of_few(width: int) -> int:
    """`width`, or a little more above 32: one of four in each octave. On a GPU, cuDNN plans attention anew, for tens of
    milliseconds, for each shape that it has not met yet; and how many queries an image has differs in every step."""
    if width <= 32:
        return width
    part = 1 << (width.bit_length() - 3)
    return -(-width // part) * part


def _shape(grid: Index) -> tuple[int, int]:
    return grid.shape[0], grid.shape[1]


def _joined(grids: list[Index]) -> Index:
    """The numbers of all grids, one grid after another."""
    return np.concatenate([grid.ravel() for grid in grids]) if grids else np.zeros(0, np.int64)


def _key_bias(keys_S: Tensor, length: int) -> Tensor:
    masked_SL = torch.arange(length, device=keys_S.device) >= keys_S[:, None]
    return (masked_SL * _MASKED)[:, None, None, :]
