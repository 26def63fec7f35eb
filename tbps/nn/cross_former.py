"""IRRA's encoder of captions that look at an image, and the head that names masked words.

A bare cross-attention of text to image, without residual and feed-forward part, then blocks in which the tokens of a caption
attend to each other in both directions. All on packed captions (tbps/nn/packing.py); whether padding is among what they
attend to is the packing's choice.

Shapes: B pairs, P image tokens, N packed caption tokens, L tokens of the longest caption, M masked words, D width.
Source: IRRA (arXiv 2303.12501); anosorae/IRRA model/build.py, IRRA.cross_former and IRRA.mlm_head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tbps.nn.attention import attention, join_heads, split_heads
from tbps.nn.clip_block import ClipBlocks, quick_gelu
from tbps.nn.packing import Packing


class CrossAttention(nn.Module):
    """Caption tokens attend to the tokens of their image; nothing is added to what they attended to."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, text_ND: Tensor, packing: Packing, image_BPD: Tensor) -> Tensor:
        """(N, D). Caption b of the packing looks at image b."""
        query_BLD = packing.view.lay(self.query(text_ND)).unflatten(0, packing.grid_SL.shape)
        query, key, value = (
            split_heads(part, self.heads) for part in (query_BLD, self.key(image_BPD), self.value(image_BPD))
        )
        context_BLD = join_heads(attention(query, key, value))
        return self.out(packing.view.collect(context_BLD.flatten(0, 1)))


class CrossFormer(nn.Module):
    """Cross-attention, then blocks of self-attention without a causal mask. Both towers' tokens are D wide."""

    def __init__(self, *, width: int, layers: int, heads: int, quick_gelu: bool = True) -> None:
        super().__init__()
        self.norm_text = nn.LayerNorm(width)
        self.norm_image = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width=width, heads=heads)
        self.blocks = ClipBlocks(width=width, layers=layers, heads=heads, intermediate=4 * width, quick_gelu=quick_gelu)
        self.norm_post = nn.LayerNorm(width)
        self._initialise(width, layers)

    def forward(self, text_ND: Tensor, packing: Packing, image_BPD: Tensor, *, rows_M: Tensor | None = None) -> Tensor:
        """(N, D) projected caption tokens and (B, P, D) projected image tokens to (N, D).

        rows_M: (M, D), the packed rows that are wanted; the last block computes no others behind its attention.
        A caption attends to its packing's keys: to padding too, where that was packed as attended tokens (official).
        """
        x_ND = self._look(text_ND, packing, image_BPD)
        return self.norm_post(self.blocks(x_ND, packing, rows_S=rows_M))

    def _look(self, text_ND: Tensor, packing: Packing, image_BPD: Tensor) -> Tensor:
        if self.blocks.checkpointing and torch.is_grad_enabled():
            x_ND: Tensor = checkpoint(self.look, text_ND, packing, image_BPD, use_reentrant=False)
            return x_ND
        return self.look(text_ND, packing, image_BPD)

    def look(self, text_ND: Tensor, packing: Packing, image_BPD: Tensor) -> Tensor:
        """The cross-attention alone, with its norms: (N, D). One norm serves keys and values."""
        return self.cross_attention(self.norm_text(text_ND), packing, self.norm_image(image_BPD))

    def _initialise(self, width: int, layers: int) -> None:
        """anosorae/IRRA model/build.py, IRRA.__init__; the blocks are made so already."""
        attention = self.cross_attention
        for layer in (attention.query, attention.key, attention.value):
            nn.init.normal_(layer.weight, std=width**-0.5)
        nn.init.normal_(attention.out.weight, std=width**-0.5 * (2 * layers) ** -0.5)
        for layer in (attention.query, attention.key, attention.value, attention.out):
            nn.init.zeros_(layer.bias)


class WordHead(nn.Module):
    """Linear, QuickGELU, norm, linear to the vocabulary; not tied to the word embeddings."""

    def __init__(self, *, width: int, vocabulary_size: int, layers: int) -> None:
        """layers: how many the encoder before it has; the more, the smaller the last matrix begins."""
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.words = nn.Linear(width, vocabulary_size)
        nn.init.normal_(self.dense.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.words.weight, std=width**-0.5 * (2 * layers) ** -0.5)

    def forward(self, hidden_MD: Tensor) -> Tensor:
        """(M, D) to (M, V) logits."""
        return self.words(self.norm(quick_gelu(self.dense(hidden_MD))))
