"""Vision transformer: pre-norm, exact GELU, learned positions, [CLS] first, final norm on every token.

Shapes: B images, P = 1 + N tokens, N patches, K kept patches, D width. Source: ALBEF, RaSa and MARS use ViT-B/16.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tbps.nn.attention import attention, join_heads, split_heads
from tbps.nn.patches import embed_patches

PositionResize = Literal["bicubic", "bilinear", "open-clip"]


class VitBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x_BPD: Tensor, first_only: bool = False) -> Tensor:
        """(B, P, D) to (B, P, D), or with first_only to (B, 1, D): no row but [CLS] is computed behind keys and values."""
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(self.norm1(x_BPD)).chunk(3, dim=-1))
        if first_only:
            x_BPD, query = x_BPD[:, :1], query[:, :, :1]
        x_BPD = x_BPD + self.out(join_heads(attention(query, key, value)))
        return x_BPD + self.fc2(F.gelu(self.fc1(self.norm2(x_BPD))))


class VisionTransformer(nn.Module):
    """Image encoder."""

    def __init__(
        self, *, image_px: tuple[int, int], patch_px: int, width: int, depth: int, heads: int, init_std: float = 0.02
    ) -> None:
        super().__init__()
        if image_px[0] % patch_px or image_px[1] % patch_px:
            raise ValueError(f"image_px is {image_px}, expected multiples of patch_px ({patch_px}); change one of them")
        self.grid = (image_px[0] // patch_px, image_px[1] // patch_px)
        self.patch_px = patch_px
        self.width = width
        self.checkpointing = False
        self.patch_embed = nn.Conv2d(3, width, kernel_size=patch_px, stride=patch_px)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + self.num_patches, width))
        self.blocks = nn.ModuleList(VitBlock(width=width, heads=heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self._initialise(init_std)

    @property
    def num_patches(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    def patches(self, image_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) normalised pixels to (B, N, D) embedded patches with positions, [CLS] not yet among them."""
        return embed_patches(self.patch_embed, image_BCHW).flatten(1, 2) + self.positions[:, 1:]

    def encode(self, patch_BND: Tensor, *, keep_BK: Tensor | None = None, first_only: bool = False) -> Tensor:
        """Embedded patches, or only those at `keep_BK`, to (B, 1 + N or K, D); with first_only to [CLS] alone, (B, 1, D)."""
        if keep_BK is not None:
            patch_BND = patch_BND.gather(1, keep_BK[..., None].expand(-1, -1, self.width))
        cls_B1D = (self.cls_token + self.positions[:, :1]).expand(patch_BND.shape[0], -1, -1)
        x_BPD = torch.cat([cls_B1D, patch_BND], dim=1)
        for index, block in enumerate(self.blocks):
            shortened = first_only and index == len(self.blocks) - 1
            if self.checkpointing and torch.is_grad_enabled():
                x_BPD = checkpoint(block, x_BPD, shortened, use_reentrant=False)
            else:
                x_BPD = block(x_BPD, shortened)
        return self.norm(x_BPD)

    def forward(self, image_BCHW: Tensor, *, first_only: bool = False) -> Tensor:
        """(B, 3, H, W) to (B, 1 + N, D), or with first_only to [CLS] alone, (B, 1, D)."""
        return self.encode(self.patches(image_BCHW), first_only=first_only)

    def _initialise(self, std: float) -> None:
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)


def resize_positions(
    position_1PD: Tensor,
    *,
    grid: tuple[int, int],
    old_grid: tuple[int, int] | None = None,
    rule: PositionResize = "bicubic",
) -> Tensor:
    """Interpolate (1, 1 + N, D) positions to another grid, align_corners False, the [CLS] row kept.

    old_grid is square when not given. rule: `bicubic` as salesforce/ALBEF models/vit.py; `bilinear` as anosorae/IRRA
    model/clip_model.py; `open-clip`: bicubic with antialiasing. Equal grids are returned unchanged.
    """
    num_old = position_1PD.shape[1] - 1
    side = round(num_old**0.5)
    rows, columns = old_grid or (side, side)
    if rows * columns != num_old:
        raise ValueError(f"{num_old} position embeddings, expected a {rows} x {columns} grid and [CLS]; name the old grid")
    if (rows, columns) == grid:
        return position_1PD
    patch_1DHW = position_1PD[:, 1:].reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
    mode = "bilinear" if rule == "bilinear" else "bicubic"
    resized = F.interpolate(patch_1DHW.float(), size=grid, mode=mode, align_corners=False, antialias=rule == "open-clip")
    return torch.cat([position_1PD[:, :1], resized.flatten(2).transpose(1, 2).to(position_1PD.dtype)], dim=1)
