"""CLIP's text tower, on packed captions: a token sees only those before it, the end token's state is the caption's feature.

What follows a caption's end token cannot change the states up to it, so padding is not computed at all. Where a method reads
states behind the end (IRRA's official cross-modal encoder attends to them), `pack_captions` computes padding as tokens.

Shapes: B captions, L tokens of the longest, N packed tokens, D width, E features. Source: CLIP (arXiv 2103.00020);
openai/CLIP clip/model.py, CLIP.encode_text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from tbps.nn.clip_block import ClipBlocks
from tbps.nn.packing import Layout, Packing, lay_out, padded_packing, upload


@dataclass(frozen=True, kw_only=True)
class PackedText:
    """Captions as the text tower reads them. `with_token_ids`: others in the same places."""

    token_id_N: Tensor
    """Token ids, packed, on the device."""
    end_B: Tensor
    """Packed row of each caption's end token."""
    packing: Packing
    layout: Layout
    """The same places on the host: `layout.sequence_N`, `layout.position_N`, `layout.rows(sequence, position)`."""


def pack_captions(
    token_ids_BL: Tensor, lengths: Sequence[int], *, device: torch.device, padded_to: int = 0, pad_id: int = 0
) -> PackedText:
    """Lay captions out that lie on the host; their last tokens, at `lengths` - 1, are their end tokens.

    padded_to: compute so many tokens of each caption, `pad_id` behind its end, attended by whoever does not mask them.
    """
    keys_B = np.asarray(lengths, np.int64)
    layout = lay_out(np.full_like(keys_B, padded_to) if padded_to else keys_B)
    ids_BL = token_ids_BL.numpy()
    id_N = np.full(len(layout.sequence_N), pad_id, np.int64)
    real_N = layout.position_N < keys_B[layout.sequence_N]
    id_N[real_N] = ids_BL[layout.sequence_N[real_N], layout.position_N[real_N]]
    token_id_N, end_B = upload([id_N, layout.start_S + keys_B - 1], device)
    return PackedText(token_id_N=token_id_N, end_B=end_B, packing=layout.to(device), layout=layout)


def with_token_ids(text: PackedText, token_ids_BL: Tensor) -> PackedText:
    """Other token ids, on the host, in the same places; of captions without computed padding."""
    ids_BL = token_ids_BL.numpy()
    (token_id_N,) = upload([ids_BL[text.layout.sequence_N, text.layout.position_N]], text.token_id_N.device)
    return replace(text, token_id_N=token_id_N)


class ClipTextTower(nn.Module):
    """Packed captions to features, or to all projected tokens."""

    def __init__(
        self,
        *,
        vocabulary_size: int,
        max_positions: int,
        width: int,
        layers: int,
        heads: int,
        intermediate: int,
        features: int,
        quick_gelu: bool,
    ) -> None:
        super().__init__()
        self.width = width
        self.words = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(max_positions, width)
        self.blocks = ClipBlocks(width=width, layers=layers, heads=heads, intermediate=intermediate, quick_gelu=quick_gelu)
        self.norm_post = nn.LayerNorm(width)
        self.projection = nn.Linear(width, features, bias=False)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.01)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward(self, text: PackedText, *, pooled: bool = False) -> Tensor:
        """(N, E): every token after the final norm and the projection, packed.

        pooled: the end tokens alone, (B, E): the captions' features before they are normalised. The last block then
        computes no other row behind its attention.
        """
        return self._encode(text.token_id_N, text.packing, rows_S=text.end_B if pooled else None)

    def embed_padded(self, token_id_BL: Tensor, length_B: Tensor) -> Tensor:
        """(B, L) padded captions, each of whose `length_B` tokens the last is its end token, to (B, E): as `pooled`."""
        packing = padded_packing(length_B, token_id_BL.shape)
        return self._encode(token_id_BL.flatten(), packing, rows_S=packing.first_S + length_B - 1)

    def _encode(self, token_id_N: Tensor, packing: Packing, *, rows_S: Tensor | None) -> Tensor:
        x_ND = self.words(token_id_N) + self.positions(packing.position_N)
        x_ND = self.blocks(x_ND, packing, causal=True, rows_S=rows_S)
        return self.projection(self.norm_post(x_ND))
