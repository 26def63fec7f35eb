"""MARS's image decoder: rebuilds removed patches from kept ones and the caption's text states.

Shapes: B images, P = 1 + N tokens, N patches, K kept patches, L caption tokens, D image width.
Source: MARS (arXiv 2407.04287), Sec. 3.4; block layout as in the official checkpoints: pre-norm self-attention,
cross-attention to the text, GEGLU feed-forward; queries, keys and values without bias; no norm at the end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tbps.nn.attention import attention, join_heads, split_heads


class DecoderAttention(nn.Module):
    """Multi-head attention of image tokens to a context."""

    def __init__(self, *, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(context_width, width, bias=False)
        self.value = nn.Linear(context_width, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x_BPD: Tensor, context_BLD: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, P, D) and (B, L, context_width) to (B, P, D)."""
        query, key, value = self.query(x_BPD), self.key(context_BLD), self.value(context_BLD)
        heads = (split_heads(part, self.heads) for part in (query, key, value))
        return self.out(join_heads(attention(*heads, bias=None if bias is None else bias.to(query.dtype))))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to the text, GEGLU; each with its pre-norm and residual."""

    def __init__(self, *, width: int, text_width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = DecoderAttention(width=width, context_width=width, heads=heads)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attention = DecoderAttention(width=width, context_width=text_width, heads=heads)
        self.norm3 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 8 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x_BPD: Tensor, text_BLD: Tensor, text_bias: Tensor | None) -> Tensor:
        """(B, P, D) to (B, P, D)."""
        normed_BPD = self.norm1(x_BPD)
        x_BPD = x_BPD + self.self_attention(normed_BPD, normed_BPD)
        x_BPD = x_BPD + self.cross_attention(self.norm2(x_BPD), text_BLD, text_bias)
        value, gate = self.fc1(self.norm3(x_BPD)).chunk(2, dim=-1)
        return x_BPD + self.fc2(value * F.gelu(gate))


class MaeDecoder(nn.Module):
    """Mask tokens put back, positions added, decoder blocks, pixels of every patch."""

    def __init__(self, *, width: int, text_width: int, depth: int, heads: int, num_patches: int, patch_px: int) -> None:
        super().__init__()
        self.checkpointing = False
        self.mask_token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1 + num_patches, width) * width**-0.5)
        self.blocks = nn.ModuleList(DecoderBlock(width=width, text_width=text_width, heads=heads) for _ in range(depth))
        self.pixels = nn.Linear(width, patch_px * patch_px * 3)

    def forward(self, kept_BPD: Tensor, restore_BN: Tensor, text_BLD: Tensor, *, text_bias: Tensor | None) -> Tensor:
        """Rebuild pixels.

        kept_BPD (B, 1 + K, D): encoder output of [CLS] and the kept patches; restore_BN (B, N): place of each patch in
        [kept, removed]; text_BLD (B, L, text width); text_bias (B, 1, 1, L) or None. Returns (B, N, patch pixels * 3).
        """
        num_removed = restore_BN.shape[1] - kept_BPD.shape[1] + 1
        shuffled_BND = torch.cat(
            [kept_BPD[:, 1:], self.mask_token.to(kept_BPD.dtype).expand(len(kept_BPD), num_removed, -1)], dim=1
        )
        patch_BND = shuffled_BND.gather(1, restore_BN[..., None].expand_as(shuffled_BND))
        x_BPD = torch.cat([kept_BPD[:, :1], patch_BND], dim=1) + self.positions
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x_BPD = checkpoint(block, x_BPD, text_BLD, text_bias, use_reentrant=False)
            else:
                x_BPD = block(x_BPD, text_BLD, text_bias)
        return self.pixels(x_BPD[:, 1:])
