"""The transformer block of CLIP's two towers, and of IRRA's cross-modal encoder: pre-norm, query, key and value apart.

Source: CLIP (arXiv 2103.00020); openai/CLIP clip/model.py, ResidualAttentionBlock, which fuses query, key and value into one
`in_proj`. Here they are linear layers of their own, so that low-rank adapters (LoRA) can be put on each.

Shapes: S sequences of L tokens, or N tokens of S sequences packed (tbps/nn/packing.py); D width.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tbps.nn.attention import attention, join_heads, split_heads
from tbps.nn.packing import Packing

QUICK = 1.702
"""Slope of QuickGELU's sigmoid."""


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), OpenAI's stand-in for GELU.

    Written by SiLU, y sigmoid(y) with y = 1.702 x, which keeps one tensor for backward where the plain product keeps two.
    """
    return F.silu(QUICK * x) / QUICK


class ClipAttention(nn.Module):
    """Tokens of one sequence attend to each other. Arguments as of ClipBlock."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        packing: Packing | None = None,
        *,
        causal: bool = False,
        first_only: bool = False,
        rows_S: Tensor | None = None,
    ) -> Tensor:
        """What each row attended to, and nothing added."""
        if packing is not None:
            return self.out(self._packed(x, packing, causal=causal, rows_S=rows_S))
        parts = self.query(x[:, :1] if first_only else x), self.key(x), self.value(x)
        query, key, value = (split_heads(part, self.heads) for part in parts)
        return self.out(join_heads(attention(query, key, value, causal=causal)))

    def _packed(self, x_ND: Tensor, packing: Packing, *, causal: bool, rows_S: Tensor | None) -> Tensor:
        """Dense layers see no padding; attention is computed on one padded view: nothing is dropped, so groups may mix."""
        shape = packing.grid_SL.shape
        query, key, value = (
            split_heads(packing.view.lay(layer(x_ND)).unflatten(0, shape), self.heads)
            for layer in (self.query, self.key, self.value)
        )
        # Behind a causal mask no token sees the padding, which comes last.
        bias = None if causal or packing.key_bias_SL is None else packing.key_bias_SL.to(query.dtype)
        context_TD = join_heads(attention(query, key, value, bias=bias, causal=causal)).flatten(0, 1)
        if rows_S is None:
            return packing.view.collect(context_TD)
        return context_TD.index_select(0, packing.view.place_N.index_select(0, rows_S))


class ClipBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, *, width: int, heads: int, intermediate: int, quick_gelu: bool) -> None:
        super().__init__()
        self.quick_gelu = quick_gelu
        self.norm1 = nn.LayerNorm(width)
        self.attention = ClipAttention(width=width, heads=heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, intermediate)
        self.fc2 = nn.Linear(intermediate, width)

    def forward(
        self,
        x: Tensor,
        packing: Packing | None = None,
        *,
        causal: bool = False,
        first_only: bool = False,
        rows_S: Tensor | None = None,
    ) -> Tensor:
        """(S, L, D) to (S, L, D); with a packing (N, D) to (N, D), where sequences see no padding behind their keys.

        causal: a token sees itself and those before it. Without a packing, first_only: (S, 1, D), of each sequence the first
        row alone. With a packing, rows_S: (S, D), the packed rows that are wanted. Neither computes what nobody will read.
        """
        attended = self.attention(self.norm1(x), packing, causal=causal, first_only=first_only, rows_S=rows_S)
        if first_only:
            x = x[:, :1]
        if rows_S is not None:
            x = x.index_select(0, rows_S)
        x = x + attended
        hidden = self.fc1(self.norm2(x))
        return x + self.fc2(quick_gelu(hidden) if self.quick_gelu else F.gelu(hidden))


class ClipBlocks(nn.ModuleList):
    """Blocks one after another. `checkpointing`: compute them again in backward, which saves memory."""

    def __init__(self, *, width: int, layers: int, heads: int, intermediate: int, quick_gelu: bool) -> None:
        super().__init__(
            ClipBlock(width=width, heads=heads, intermediate=intermediate, quick_gelu=quick_gelu) for _ in range(layers)
        )
        self.checkpointing = False
        for block in self:
            initialise(block, layers)

    def forward(
        self,
        x: Tensor,
        packing: Packing | None = None,
        *,
        causal: bool = False,
        first_only: bool = False,
        rows_S: Tensor | None = None,
    ) -> Tensor:
        """As of a block; only the last one leaves rows out."""
        for index, block in enumerate(self):
            last = index == len(self) - 1
            run = partial(block, causal=causal, first_only=first_only and last, rows_S=rows_S if last else None)
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(run, x, packing, use_reentrant=False)
            else:
                x = run(x, packing)
        return x


def initialise(block: nn.Module, layers: int) -> None:
    """openai/CLIP clip/model.py, initialize_parameters: what is added to the residual stream is small in deep towers."""
    for name, layer in block.named_modules():
        if isinstance(layer, nn.Linear):
            std = (2 * layer.in_features if name == "fc1" else layer.in_features) ** -0.5
            if name == "fc2":
                std = layer.out_features**-0.5
            if name in ("fc2", "attention.out"):
                std *= (2 * layers) ** -0.5
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
