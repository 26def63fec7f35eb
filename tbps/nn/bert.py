"""BERT on packed sequences, with cross-attention to an image in its last layers or in all of them.

Shapes: S sequences of N tokens in all, packed (tbps/nn/packing.py), of which a layer computes R rows; I images of P tokens;
D width, d head width.
Source: BERT (arXiv 1810.04805), post-norm, exact GELU; cross-attention between self-attention and feed-forward with its
own residual and norm, as in ALBEF (arXiv 2107.07651, Sec. 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tbps.nn.attention import attention, join_heads, mean_attention, split_heads
from tbps.nn.dropout import Site, drop
from tbps.nn.packing import Bucket, Packing, Rows

PAD_ID = 0
"""[PAD] in every vocabulary of BERT: its row of the word embeddings gets no gradient."""
NORM_EPS = 1e-12


class SelfAttention(nn.Module):
    """Tokens of one sequence attend to each other; residual and norm."""

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(
        self, x_ND: Tensor, packing: Packing, rows: Rows | None = None, *, class_rows: list[Tensor] | None = None
    ) -> Tensor:
        """(N, D) to (R, D): `rows` of the packing (default: all), attending to everything.

        What [CLS] attends to, (S, L) float32, is appended to `class_rows` where that is given.
        """
        rows = packing.all if rows is None else rows
        qkv_ND = self.qkv(x_ND)
        if class_rows is not None:
            class_rows.append(self._class_rows(qkv_ND, packing))
        site = Site.next(self.dropout, self.training)
        padded = self._padded(qkv_ND, rows)
        parts = [self._attend(*parts, bucket, site) for parts, bucket in zip(padded, rows.buckets, strict=True)]
        context_RD = rows.queries.collect(_joined(parts))
        out_RD = drop(self.out(context_RD), Site.next(self.dropout, self.training), rows.groups)
        return self.norm(out_RD + rows.pick(x_ND))

    def _padded(self, qkv_ND: Tensor, rows: Rows) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Queries (S, Q, D), keys and values (S, L, D) of each bucket."""
        keys = [bucket.keys for bucket in rows.buckets]
        if rows.row_R is None:
            wholes = [part.chunk(3, dim=-1) for part in _cut(rows.queries.lay(qkv_ND), keys)]
            return [(query, key, value) for query, key, value in wholes]
        width = qkv_ND.shape[1] // 3
        query_ND, key_value_ND = qkv_ND.split([width, 2 * width], dim=1)
        queries = _cut(rows.queries.lay(rows.pick(query_ND)), [bucket.queries for bucket in rows.buckets])
        halves = [part.chunk(2, dim=-1) for part in _cut(key_value_ND.index_select(0, rows.key_T), keys)]
        return [(query, key, value) for query, (key, value) in zip(queries, halves, strict=True)]

    def _attend(self, query_SQD: Tensor, key_SLD: Tensor, value_SLD: Tensor, bucket: Bucket, site: Site) -> Tensor:
        """What the computed rows of a bucket attended to: (S * Q, D)."""
        query, key, value = (split_heads(part, self.heads) for part in (query_SQD, key_SLD, value_SLD))
        bias = None if bucket.key_bias_SL is None else bucket.key_bias_SL.to(query.dtype)
        site = site.of_part(bucket.number)
        context = attention(query, key, value, bias=bias, site=site, group=bucket.group, ragged=True)
        return join_heads(context).flatten(0, 1)

    def _class_rows(self, qkv_ND: Tensor, packing: Packing) -> Tensor:
        """What [CLS] attends to, mean over heads: (S, L)."""
        query_ND, key_ND, _ = qkv_ND.chunk(3, dim=-1)
        query_S1D = query_ND.index_select(0, packing.first_S)[:, None]
        key_SLD = key_ND.index_select(0, packing.grid_SL.flatten()).view(*packing.grid_SL.shape, -1)
        bias = None if packing.key_bias_SL is None else packing.key_bias_SL.to(qkv_ND.dtype)
        return mean_attention(split_heads(query_S1D, self.heads), split_heads(key_SLD, self.heads), bias=bias)[:, 0]


def _cut(x_TD: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Parts of these shapes, (S, L, D) each. They were gathered at once: in backward they are laid side by side, and brought
    back once."""
    parts = (x_TD,) if len(shapes) == 1 else x_TD.split([first * second for first, second in shapes])
    return [part.view(*shape, x_TD.shape[-1]) for part, shape in zip(parts, shapes, strict=True)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


Memory = tuple[Tensor, Tensor]
"""Keys and values of images in one layer: (I, H, P, d) each."""


@dataclass(kw_only=True)
class CrossRecord:
    """Tensors of one cross-attention layer, part of the graph: losses can read its attention, or differentiate by it."""

    first_S: Tensor
    """Row of each sequence's [CLS] in the two below."""
    query_RD: Tensor
    """Of the text tokens that the layer computed, heads side by side."""
    key_IHPd: Tensor
    """Of the image tokens."""
    value_IHPd: Tensor
    """Of the image tokens."""
    context_RD: Tensor
    """Sum of the values that each token attended to, heads side by side."""


class CrossAttention(nn.Module):
    """All tokens that look at one image attend to it in one dense call; residual and norm."""

    def __init__(self, *, width: int, image_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(image_width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(
        self, x_RD: Tensor, rows: Rows, image: Tensor | Memory, *, records: list[CrossRecord] | None = None
    ) -> Tensor:
        """(R, D) to (R, D); image: its tokens (I, P, D), or `memory` of them. What was held on the way is appended to
        `records` where that is given."""
        assert rows.by_image is not None
        query_RD = self.query(x_RD)
        key, value = self.memory(image) if isinstance(image, Tensor) else image
        shapes = [view.queries for view in rows.images]
        queries = _cut(rows.by_image.lay(query_RD), shapes)
        keys, values = (part.split([images for images, _ in shapes]) for part in (key, value))
        site = Site.next(self.dropout, self.training)
        parts = [
            join_heads(attention(split_heads(query, self.heads), *memory, site=site, group=view.group)).flatten(0, 1)
            for query, *memory, view in zip(queries, keys, values, rows.images, strict=True)
            if view.queries[1]  # else nothing looks at this group
        ]
        context_RD = rows.by_image.collect(_joined(parts))
        if records is not None:
            records.append(
                CrossRecord(first_S=rows.first_S, query_RD=query_RD, key_IHPd=key, value_IHPd=value, context_RD=context_RD)
            )
        return self.norm(drop(self.out(context_RD), Site.next(self.dropout, self.training), rows.groups) + x_RD)

    def memory(self, image_IPD: Tensor) -> Memory:
        """Keys and values of the images."""
        key, value = (split_heads(part, self.heads) for part in self.key_value(image_IPD).chunk(2, dim=-1))
        return key, value


class BertLayer(nn.Module):
    """Self-attention, cross-attention where the layer has it and an image is given, feed-forward."""

    def __init__(self, *, width: int, heads: int, intermediate: int, dropout: float, image_width: int | None) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attention = SelfAttention(width=width, heads=heads, dropout=dropout)
        self.cross_attention: CrossAttention | None = None
        if image_width is not None:
            self.cross_attention = CrossAttention(width=width, image_width=image_width, heads=heads, dropout=dropout)
        self.fc1 = nn.Linear(width, intermediate)
        self.fc2 = nn.Linear(intermediate, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(
        self,
        x_ND: Tensor,
        packing: Packing,
        image: Tensor | Memory | None,
        rows: Rows | None = None,
        *,
        class_rows: list[Tensor] | None = None,
        records: list[CrossRecord] | None = None,
    ) -> Tensor:
        """(N, D) to (R, D): `rows` of the packing alone (default: all), which attend to all; no others are computed behind
        the keys and values. `class_rows` as in SelfAttention, `image` and `records` as in CrossAttention."""
        rows = packing.all if rows is None else rows
        x_RD = self.self_attention(x_ND, packing, rows, class_rows=class_rows)
        if image is None or self.cross_attention is None:
            return self.feed_forward(x_RD, rows)
        return self.after_self_attention(x_RD, rows, image, records=records)

    def after_self_attention(
        self, x_RD: Tensor, rows: Rows, image: Tensor | Memory, *, records: list[CrossRecord] | None = None
    ) -> Tensor:
        """Cross-attention and feed-forward: (R, D) to (R, D)."""
        assert self.cross_attention is not None
        return self.feed_forward(self.cross_attention(x_RD, rows, image, records=records), rows)

    def feed_forward(self, x_RD: Tensor, rows: Rows) -> Tensor:
        """Feed-forward, residual, norm."""
        return self.norm(drop(self.dense(x_RD), Site.next(self.dropout, self.training), rows.groups) + x_RD)

    def dense(self, x_RD: Tensor) -> Tensor:
        """What feed-forward adds to its input."""
        return self.fc2(F.gelu(self.fc1(x_RD)))


class Bert(nn.Module):
    """Text encoder (layers before `fusion_layer`) and cross encoder."""

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        heads: int,
        intermediate: int,
        vocabulary_size: int,
        max_positions: int,
        fusion_layer: int,
        full_cross_attention: bool,
        image_width: int,
        dropout: float,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.width = width
        self.vocabulary_size = vocabulary_size
        self.fusion_layer = fusion_layer
        self.full_cross_attention = full_cross_attention
        self.dropout = dropout
        self.checkpointing = False
        self.words = nn.Embedding(vocabulary_size, width, padding_idx=PAD_ID)
        self.positions = nn.Embedding(max_positions, width)
        self.token_type = nn.Parameter(torch.empty(2, width))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.layers = nn.ModuleList(
            BertLayer(
                width=width,
                heads=heads,
                intermediate=intermediate,
                dropout=dropout,
                image_width=image_width if full_cross_attention or index >= fusion_layer else None,
            )
            for index in range(layers)
        )
        self._initialise(init_std)

    def embed(self, token_id_N: Tensor, packing: Packing) -> Tensor:
        """Token ids to (N, D)."""
        x_ND = self.words(token_id_N) + self.positions(packing.position_N) + self.token_type[0]
        return drop(self.norm(x_ND), Site.next(self.dropout, self.training), packing.all.groups)

    def encode_text(self, x_ND: Tensor, packing: Packing, *, rows: Rows | None = None) -> Tensor:
        """Embedded tokens through the text encoder: (R, D), `rows` of the packing (default: all). No image is seen."""
        return self._run(x_ND, packing, range(self.fusion_layer), rows)

    @torch.no_grad()
    def encode_text_with_class_attention(self, x_ND: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """As `encode_text`, and what [CLS] attends to in each of its K layers, mean over heads: (K, S, L) float32."""
        rows: list[Tensor] = []
        for layer in self.layers[: self.fusion_layer]:
            x_ND = layer(x_ND, packing, None, class_rows=rows)
        return x_ND, torch.stack(rows)

    def encode_cross(self, x_ND: Tensor, packing: Packing, image_IPD: Tensor) -> Tensor:
        """The cross encoder: all layers from embedded tokens with full cross-attention, else the last from text states.

        (R, D): the rows `packing.read`; the last layer computes no others behind its keys and values.
        """
        return self.encode_cross_apart([x_ND], [packing], image_IPD)[0][0]

    def encode_cross_apart(
        self, parts: list[Tensor], packings: Sequence[Packing], image_IPD: Tensor, *, record_layer: int | None = None
    ) -> tuple[list[Tensor], CrossRecord | None]:
        """As `encode_cross`, of several packings that look at the same images, whose keys and values are projected once.

        Nothing of one part is in the graph of another. record_layer: cross layer (1 = the first) of which a record is kept,
        that of the last part.
        """
        records = list[CrossRecord]()
        for index in range(self.first_cross_layer, len(self.layers)):
            watched = record_layer is not None and index == self.first_cross_layer + record_layer - 1
            run = partial(self._cross_layer, index, packings, records if watched else None)
            # Activation checkpointing would leave a record that is no part of the graph. It lets go of tensors that it is
            # given one by one, not of a list.
            if self.checkpointing and torch.is_grad_enabled() and not watched:
                parts = checkpoint(run, image_IPD, *parts, use_reentrant=False)
            else:
                parts = run(image_IPD, *parts)
        return parts, records[0] if records else None

    def _cross_layer(
        self,
        index: int,
        packings: Sequence[Packing],
        records: list[CrossRecord] | None,
        image_IPD: Tensor,
        *parts: Tensor,
    ) -> list[Tensor]:
        layer, last = self.layers[index], index == len(self.layers) - 1
        assert isinstance(layer, BertLayer) and layer.cross_attention is not None
        image = image_IPD if len(parts) == 1 else layer.cross_attention.memory(image_IPD)
        kept = [None] * (len(parts) - 1) + [records]
        return [
            layer(x_ND, packing, image, packing.read if last else packing.all, records=record)
            for x_ND, packing, record in zip(parts, packings, kept, strict=True)
        ]

    @property
    def crosses(self) -> bool:
        """Whether it has a cross encoder: that of a momentum encoder is left out where no loss reads it."""
        layer = self.layers[-1]
        assert isinstance(layer, BertLayer)
        return layer.cross_attention is not None

    @property
    def first_cross_layer(self) -> int:
        """Where the cross encoder starts."""
        return 0 if self.full_cross_attention else self.fusion_layer

    def _run(self, x_ND: Tensor, packing: Packing, layers: range, last: Rows | None) -> Tensor:
        """Layers that see no image, one after another; the last of them computes the rows `last`."""
        for index in layers:
            layer, rows = self.layers[index], last if index == layers[-1] else None
            if self.checkpointing and torch.is_grad_enabled():
                x_ND = checkpoint(layer, x_ND, packing, None, rows, use_reentrant=False)
            else:
                x_ND = layer(x_ND, packing, None, rows)
        return x_ND

    def _initialise(self, std: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.token_type, std=0.02)
        with torch.no_grad():
            self.words.weight[0].zero_()


class WordHead(nn.Module):
    """BERT's masked-word head; its output matrix is the word embedding of the encoder it belongs to."""

    def __init__(self, *, width: int, vocabulary_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(
        self, hidden_MD: Tensor, word_VD: Tensor, *, rows: int = 0, reduced: Callable[[Tensor, int], Tensor] | None = None
    ) -> Tensor:
        """(M, D) states and the (V, D) word embeddings to (M, V) logits.

        reduced: makes of some logits, at most (`rows`, V), and the place of the first what is returned for them, joined
        along M; the logits of all are never held. It is one call of this module whatever M is: ZeRO-3 gathers weights at
        each call, on all processes, and these have different numbers of rows.
        """
        state_MD = self.norm(F.gelu(self.dense(hidden_MD)))
        if reduced is None:
            return F.linear(state_MD, word_VD, self.bias)
        places = range(0, max(len(state_MD), 1), rows)
        return torch.cat([reduced(F.linear(state_MD[at : at + rows], word_VD, self.bias), at) for at in places])
