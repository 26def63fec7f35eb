"""BERT on packed sequences, with cross-attention to an image in its last layers or in all of them.

Shapes: S sequences of N tokens in all, packed (tbps/nn/packing.py); I images of P tokens; D width, d head width.
Source: BERT (arXiv 1810.04805), post-norm, exact GELU; cross-attention between self-attention and feed-forward with its
own residual and norm, as in ALBEF (arXiv 2107.07651, Sec. 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tbps.nn.attention import attention, join_heads, mean_attention, split_heads
from tbps.nn.dropout import Site, drop
from tbps.nn.packing import GroupView, Packing

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
        self, x_ND: Tensor, packing: Packing, *, only_first: bool = False, class_rows: list[Tensor] | None = None
    ) -> Tensor:
        """(N, D) to (N, D), or to (S, D) with `only_first`: the [CLS] rows alone, attending to everything.

        What [CLS] attends to, (S, L) float32, is appended to `class_rows` where that is given.
        """
        qkv_ND = self.qkv(x_ND)
        if class_rows is not None:
            class_rows.append(self._class_rows(qkv_ND, packing))
        site = Site.next(self.dropout, self.training)
        parts = [self._attend(qkv_ND, view, site, only_first) for view in packing.views]
        context_ND = parts[0] if len(parts) == 1 else torch.cat(parts)
        if only_first:
            assert len(parts) == 1, "sequences of several groups are not in the order they were given"
        else:
            context_ND = context_ND.index_select(0, packing.flat_N)
        residual = x_ND.index_select(0, packing.first_S) if only_first else x_ND
        out = drop(self.out(context_ND), Site.next(self.dropout, self.training), packing.groups)
        return self.norm(out + residual)

    def _attend(self, qkv_ND: Tensor, view: GroupView, site: Site, only_first: bool) -> Tensor:
        """What the tokens of a group attended to: (S * L, D), or (S, D) with `only_first`."""
        qkv_SLD = qkv_ND.index_select(0, view.grid_SL.flatten()).view(*view.grid_SL.shape, -1)
        query, key, value = (split_heads(part, self.heads) for part in qkv_SLD.chunk(3, dim=-1))
        query = query[:, :, :1] if only_first else query
        bias = None if view.key_bias_SL is None else view.key_bias_SL.to(query.dtype)
        context_SLD = join_heads(attention(query, key, value, bias=bias, site=site, group=view.group))
        return context_SLD.flatten(0, 1)

    def _class_rows(self, qkv_ND: Tensor, packing: Packing) -> Tensor:
        """What [CLS] attends to, mean over heads: (S, L)."""
        query_ND, key_ND, _ = qkv_ND.chunk(3, dim=-1)
        query_S1D = query_ND.index_select(0, packing.first_S)[:, None]
        key_SLD = key_ND.index_select(0, packing.grid_SL.flatten()).view(*packing.grid_SL.shape, -1)
        bias = None if packing.key_bias_SL is None else packing.key_bias_SL.to(qkv_ND.dtype)
        return mean_attention(split_heads(query_S1D, self.heads), split_heads(key_SLD, self.heads), bias=bias)[:, 0]


@dataclass(kw_only=True)
class CrossRecord:
    """Tensors of one cross-attention layer, part of the graph: losses can read its attention, or differentiate by it."""

    query_ND: Tensor
    """Of the text tokens, heads side by side."""
    key_IHPd: Tensor
    """Of the image tokens."""
    value_IHPd: Tensor
    """Of the image tokens."""
    context_ND: Tensor
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
        self, x_ND: Tensor, packing: Packing, image_IPD: Tensor, *, records: list[CrossRecord] | None = None
    ) -> Tensor:
        """(N, D) to (N, D); what was held on the way is appended to `records` where that is given."""
        assert packing.image_flat_N is not None
        query_ND = self.query(x_ND)
        key, value = (split_heads(part, self.heads) for part in self.key_value(image_IPD).chunk(2, dim=-1))
        site = Site.next(self.dropout, self.training)
        parts = [self._attend(query_ND, key[view.images], value[view.images], view, site) for view in packing.views]
        context_ND = (parts[0] if len(parts) == 1 else torch.cat(parts)).index_select(0, packing.image_flat_N)
        if records is not None:
            records.append(CrossRecord(query_ND=query_ND, key_IHPd=key, value_IHPd=value, context_ND=context_ND))
        return self.norm(drop(self.out(context_ND), Site.next(self.dropout, self.training), packing.groups) + x_ND)

    def _attend(self, query_ND: Tensor, key_IHPd: Tensor, value_IHPd: Tensor, view: GroupView, site: Site) -> Tensor:
        """What the tokens of a group attended to: (I * Q, D)."""
        assert view.image_grid_IQ is not None
        query_IQD = query_ND.index_select(0, view.image_grid_IQ.flatten()).view(*view.image_grid_IQ.shape, -1)
        context_IHQd = attention(split_heads(query_IQD, self.heads), key_IHPd, value_IHPd, site=site, group=view.group)
        return join_heads(context_IHQd).flatten(0, 1)


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
        image_IPD: Tensor | None,
        *,
        class_rows: list[Tensor] | None = None,
        records: list[CrossRecord] | None = None,
    ) -> Tensor:
        """(N, D) to (N, D); `class_rows` as in SelfAttention, `records` as in CrossAttention."""
        x_ND = self.self_attention(x_ND, packing, class_rows=class_rows)
        if image_IPD is not None and self.cross_attention is not None:
            x_ND = self.cross_attention(x_ND, packing, image_IPD, records=records)
        return self.feed_forward(x_ND, packing)

    def feed_forward(self, x_ND: Tensor, packing: Packing) -> Tensor:
        """Feed-forward, residual, norm."""
        out_ND = self.fc2(F.gelu(self.fc1(x_ND)))
        return self.norm(drop(out_ND, Site.next(self.dropout, self.training), packing.groups) + x_ND)


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
        return drop(self.norm(x_ND), Site.next(self.dropout, self.training), packing.groups)

    def encode_text(self, x_ND: Tensor, packing: Packing) -> Tensor:
        """Embedded tokens through the text encoder; no image is seen."""
        return self._run(x_ND, packing, None, range(self.fusion_layer))

    @torch.no_grad()
    def encode_text_with_class_attention(self, x_ND: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """As `encode_text`, and what [CLS] attends to in each of its K layers, mean over heads: (K, S, L) float32."""
        rows: list[Tensor] = []
        for layer in self.layers[: self.fusion_layer]:
            x_ND = layer(x_ND, packing, None, class_rows=rows)
        return x_ND, torch.stack(rows)

    def encode_cross(self, x_ND: Tensor, packing: Packing, image_IPD: Tensor) -> Tensor:
        """The cross encoder: all layers from embedded tokens with full cross-attention, else the last from text states."""
        return self._run(x_ND, packing, image_IPD, range(self.first_cross_layer, len(self.layers)))

    def encode_cross_with_record(
        self, x_ND: Tensor, packing: Packing, image_IPD: Tensor, *, layer: int
    ) -> tuple[Tensor, CrossRecord]:
        """As `encode_cross`, and what cross layer `layer` (1 = the first) held."""
        watched, records = self.first_cross_layer + layer - 1, list[CrossRecord]()
        x_ND = self._run(x_ND, packing, image_IPD, range(self.first_cross_layer, watched))
        # Without activation checkpointing, which would leave a record that is no part of the graph.
        x_ND = self.layers[watched](x_ND, packing, image_IPD, records=records)
        return self._run(x_ND, packing, image_IPD, range(watched + 1, len(self.layers))), records[0]

    @property
    def first_cross_layer(self) -> int:
        """Where the cross encoder starts."""
        return 0 if self.full_cross_attention else self.fusion_layer

    def _run(self, x_ND: Tensor, packing: Packing, image_IPD: Tensor | None, layers: range) -> Tensor:
        for index in layers:
            layer = self.layers[index]
            if self.checkpointing and torch.is_grad_enabled():
                x_ND = checkpoint(layer, x_ND, packing, image_IPD, use_reentrant=False)
            else:
                x_ND = layer(x_ND, packing, image_IPD)
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

    def forward(self, hidden_MD: Tensor, word_VD: Tensor) -> Tensor:
        """(M, D) states and the (V, D) word embeddings to (M, V) logits."""
        return F.linear(self.norm(F.gelu(self.dense(hidden_MD))), word_VD, self.bias)
