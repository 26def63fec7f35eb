"""BiLMa's cross-modal encoder: one transformer over [image || caption], and the two heads that tell what was masked.

Image and caption are one sequence, in which all tokens attend to each other. It is computed without padding: sequences are
packed one after another (tbps/nn/packing.py), so that padding is no key and takes no part in dense layers.

Shapes: B pairs, P = 1 + N image tokens ([CLS] and N patches), T packed caption tokens, J = B P + T joint tokens, M wanted
rows, D width.
Source: BiLMa (ICCV workshops 2023), Sec. 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tbps.nn.attention import mean_attention, split_heads
from tbps.nn.clip_block import ClipAttention, ClipBlock, ClipBlocks
from tbps.nn.packing import Index, Layout, Packing, lay_out, upload


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Where the tokens of [image || caption] sequences lie: caption b belongs to image b."""

    source_J: Tensor
    """Row of each joint token in [B P image tokens || T caption tokens], on the device."""
    packing: Packing
    layout: Layout
    """The same places on the host."""
    image_tokens: int
    """P."""

    def rows_of_words(self, caption: Index, place: Index) -> Index:
        """Joint rows of caption tokens, given by caption and place in it."""
        return self.layout.rows(caption, self.image_tokens + place)

    def rows_of_patches(self, image: Index, patch: Index) -> Index:
        """Joint rows of patches, given by image and number."""
        return self.layout.rows(image, 1 + patch)


def join(text: Layout, *, image_tokens: int, device: torch.device) -> Joint:
    """Lay out the captions of `text` with an image of `image_tokens` tokens before each."""
    layout = lay_out(text.tokens_S + image_tokens)
    sequence_J, position_J = layout.sequence_N, layout.position_N
    of_image = sequence_J * image_tokens + position_J
    of_text = len(text.tokens_S) * image_tokens + text.rows(sequence_J, position_J - image_tokens)
    (source_J,) = upload([np.where(position_J < image_tokens, of_image, of_text)], device)
    return Joint(source_J=source_J, packing=layout.to(device), layout=layout, image_tokens=image_tokens)


class TokenHead(nn.Module):
    """Linear, GELU, norm, linear: predicts what stood at a masked token (BiLMa, Sec. 3.2)."""

    def __init__(self, *, width: int, outputs: int, layers: int) -> None:
        """layers: how many the encoder before it has; the more, the smaller the last matrix begins, as in IRRA."""
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, outputs)
        nn.init.normal_(self.dense.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.out.weight, std=width**-0.5 * (2 * layers) ** -0.5)

    def forward(self, hidden_MD: Tensor) -> Tensor:
        """(M, D) to (M, outputs)."""
        return self.out(self.norm(nn.functional.gelu(self.dense(hidden_MD))))


class CrossModalEncoder(nn.Module):
    """The transformer over [image || caption] and its two heads. Only training needs it: ranking and exports do without."""

    def __init__(
        self,
        *,
        width: int,
        image_tokens: int,
        layers: int,
        heads: int,
        quick_gelu: bool,
        words: int,
        patch_outputs: int,
        positions: bool = True,
    ) -> None:
        """words, patch_outputs: of the two heads; 0 leaves a head out, and without `patch_outputs` nothing of an image is
        ever masked. positions: off as a control alone: all masked patches of an image are then the same token."""
        super().__init__()
        self.norm_image = nn.LayerNorm(width)
        self.norm_text = nn.LayerNorm(width)
        self.blocks = ClipBlocks(width=width, layers=layers, heads=heads, intermediate=4 * width, quick_gelu=quick_gelu)
        self.norm_post = nn.LayerNorm(width)
        self.positions: nn.Parameter | None = None
        self.mask_token: nn.Parameter | None = None
        self.word_head: TokenHead | None = None
        self.patch_head: TokenHead | None = None
        if positions:
            self.positions = nn.Parameter(width**-0.5 * torch.randn(image_tokens, width))
        if words:
            self.word_head = TokenHead(width=width, outputs=words, layers=layers)
        if patch_outputs:
            self.mask_token = nn.Parameter(width**-0.5 * torch.randn(width))
            self.patch_head = TokenHead(width=width, outputs=patch_outputs, layers=layers)

    def forward(
        self, image_BPD: Tensor, text_TD: Tensor, joint: Joint, *, rows_M: Tensor, masked_BP: Tensor | None = None
    ) -> Tensor:
        """(M, D): the joint rows `rows_M`, on a device; the last block computes no others behind its attention.

        image_BPD, text_TD: the towers' projected tokens; masked_BP: bool, image tokens in whose place the mask stands.
        """
        x_JD = self._tokens(image_BPD, text_TD, joint, masked_BP)
        return self.norm_post(self.blocks(x_JD, joint.packing, rows_S=rows_M))

    def attended(
        self, image_BPD: Tensor, text_TD: Tensor, joint: Joint, *, rows_M: Tensor, masked_BP: Tensor | None = None
    ) -> Tensor:
        """(M, L): what the rows attend to in the last block, mean over heads; 0 behind the end of a sequence. Of all
        sequences L tokens: those of the image, then those of the caption. Arguments as of `forward`."""
        x_JD = self._tokens(image_BPD, text_TD, joint, masked_BP)
        *earlier, last = self.blocks
        assert isinstance(last, ClipBlock)
        for block in earlier:
            x_JD = block(x_JD, joint.packing)
        return _looks(last.attention, last.norm1(x_JD), joint.packing, rows_M)

    def _tokens(self, image_BPD: Tensor, text_TD: Tensor, joint: Joint, masked_BP: Tensor | None) -> Tensor:
        """(J, D): what the first block reads."""
        if masked_BP is not None:
            assert self.mask_token is not None
            image_BPD = torch.where(masked_BP[..., None], self.mask_token, image_BPD)
        if self.positions is not None:
            image_BPD = image_BPD + self.positions
        both = torch.cat([self.norm_image(image_BPD).flatten(0, 1), self.norm_text(text_TD)])
        return both.index_select(0, joint.source_J)


def _looks(attention: ClipAttention, x_JD: Tensor, packing: Packing, rows_M: Tensor) -> Tensor:
    grid_SL = packing.grid_SL
    key_SHLd = split_heads(attention.key(x_JD)[grid_SL], attention.heads)
    query_JHd = attention.query(x_JD).unflatten(-1, (attention.heads, -1))
    sequence_M = packing.view.place_N.index_select(0, rows_M) // grid_SL.shape[1]
    bias = None if packing.key_bias_SL is None else packing.key_bias_SL[sequence_M]
    return mean_attention(query_JHd.index_select(0, rows_M)[:, :, None], key_SHLd[sequence_M], bias=bias)[:, 0]
