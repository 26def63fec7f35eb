"""CLIP's image tower: vision transformer with a norm before the blocks and a projection behind them.

Shapes: B images, P = 1 + N tokens, N patches, D width, E features. Source: CLIP (arXiv 2103.00020); openai/CLIP
clip/model.py, VisionTransformer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tbps.nn.clip_block import ClipBlocks
from tbps.nn.patches import embed_patches
from tbps.nn.vit import PositionResize


class ClipImageTower(nn.Module):
    """Images of any height and width to features, or to all projected tokens.

    position_resize: how a table of positions for other images gets to this grid (tbps/nn/vit.py, resize_positions).
    """

    def __init__(
        self,
        *,
        grid: tuple[int, int],
        patch_px: int,
        stride_px: int,
        width: int,
        layers: int,
        heads: int,
        intermediate: int,
        features: int,
        quick_gelu: bool,
        position_resize: PositionResize = "bilinear",
    ) -> None:
        super().__init__()
        self.grid = grid
        self.position_resize = position_resize
        self.width = width
        self.patch_embed = nn.Conv2d(3, width, kernel_size=patch_px, stride=stride_px, bias=False)
        self.cls_token = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positions = nn.Parameter(width**-0.5 * torch.randn(1 + grid[0] * grid[1], width))
        self.norm_pre = nn.LayerNorm(width)
        self.blocks = ClipBlocks(width=width, layers=layers, heads=heads, intermediate=intermediate, quick_gelu=quick_gelu)
        self.norm_post = nn.LayerNorm(width)
        self.projection = nn.Linear(width, features, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward(self, image_BCHW: Tensor, *, pooled: bool = False) -> Tensor:
        """(B, 3, H, W) normalised pixels to (B, P, E): every token after the final norm and the projection, [CLS] first.

        pooled: [CLS] alone, (B, E): the image's feature before it is normalised. The last block then computes no other row.
        """
        patch_BND = embed_patches(self.patch_embed, image_BCHW).flatten(1, 2)
        cls_B1D = self.cls_token.to(patch_BND.dtype).expand(patch_BND.shape[0], 1, -1)
        x_BPD = self.norm_pre(torch.cat([cls_B1D, patch_BND], dim=1) + self.positions)
        token_BPE = self.projection(self.norm_post(self.blocks(x_BPD, first_only=pooled)))
        return token_BPE[:, 0] if pooled else token_BPE
