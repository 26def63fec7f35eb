"""Swin transformer: attention inside windows that every second block shifts; the mean of the last tokens stands first.

As APTM's code has it: a stage whose shorter side is no longer than the window takes windows of that side, and none of its
blocks shifts. At 384 x 128 that is 8 x 8 on 96 x 32, 48 x 16 and 24 x 8, the last of them without shifts, and 4 x 4 on
12 x 4. Others decide by axis (timm: shifts of 4 along 24 rows, windows of 8 x 4 on 12 x 4): APTM's weights fit there, and
what they compute is wrong.

Shapes: B images, R rows and C columns of tokens, w side of a window, W windows, n = w * w tokens of a window, H heads, d
head width, D width, P = 1 + R * C of the last stage, T = (2 w - 1) ** 2 offsets between two tokens of a window.
Source: Swin (arXiv 2103.14030); Shuyu-XJTU/APTM models/swin_transformer.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tbps.nn.attention import attention
from tbps.nn.dropout import Groups, Site, drop_rows
from tbps.nn.patches import embed_patches

FAR = -100.0
"""Added to the logit of two tokens of a shifted window that are no neighbours in the image (Swin's own number)."""


class SwinBlock(nn.Module):
    """x + attention in windows(norm(x)), then x + mlp(norm(x)); each branch may be left out for an image in training."""

    def __init__(
        self, *, width: int, heads: int, grid: tuple[int, int], window: int, shifted: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.heads, self.grid, self.drop_path = heads, grid, drop_path
        self.window = min(window, *grid)
        self.shift = self.window // 2 if shifted and min(grid) > window else 0
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.position_bias = nn.Parameter(torch.zeros((2 * self.window - 1) ** 2, heads))
        """(T, H): what the offset between query and key adds to a logit; row-major by vertical, then horizontal offset."""
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.register_buffer("offset_nn", window_offsets(self.window), persistent=False)
        self.register_buffer("far_Wnn", far_pairs(grid, self.window, self.shift) if self.shift else None, persistent=False)

    def forward(self, x_BRCD: Tensor, groups: Groups) -> Tensor:
        """(B, R, C, D) to the same; groups: which images belong to which group of pairs, for `drop_path`."""
        site = Site.next(self.drop_path, self.training)
        x_BRCD = x_BRCD + drop_rows(self.attend(x_BRCD), site, groups)
        site = Site.next(self.drop_path, self.training)
        return x_BRCD + drop_rows(self.feed_forward(x_BRCD), site, groups)

    def feed_forward(self, x_BRCD: Tensor) -> Tensor:
        """mlp(norm(x))."""
        return self.fc2(F.gelu(self.fc1(self.norm2(x_BRCD))))

    def attend(self, x_BRCD: Tensor) -> Tensor:
        """attention in windows(norm(x))."""
        x_BRCD = self.norm1(x_BRCD)
        if self.shift:
            x_BRCD = x_BRCD.roll((-self.shift, -self.shift), dims=(1, 2))
        query, key, value = (self._windows(part) for part in self.qkv(x_BRCD).chunk(3, dim=-1))
        # Windows lie beside the heads, so that one bias serves all images.
        context = attention(query, key, value, bias=self._bias(query.dtype))
        out_BRCD = self.out(self._whole(context))
        return out_BRCD.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else out_BRCD

    def _windows(self, x_BRCD: Tensor) -> Tensor:
        """(B, R, C, H * d) to (B, W * H, n, d)."""
        (rows, columns), side = self.grid, self.window
        parts = x_BRCD.view(x_BRCD.shape[0], rows // side, side, columns // side, side, self.heads, -1)
        return parts.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(1, 3)

    def _whole(self, context: Tensor) -> Tensor:
        """The inverse of `_windows`."""
        (rows, columns), side = self.grid, self.window
        parts = context.view(context.shape[0], rows // side, columns // side, self.heads, side, side, -1)
        return parts.permute(0, 1, 4, 2, 5, 3, 6).reshape(context.shape[0], rows, columns, -1)

    def _bias(self, dtype: torch.dtype) -> Tensor:
        """(1, W * H, n, n): the offsets' bias, and `FAR` between tokens that a shift brought together."""
        num_windows = (self.grid[0] // self.window) * (self.grid[1] // self.window)
        bias_1Hnn = self.position_bias[self.offset_nn].permute(2, 0, 1)[None]  # type: ignore[index]
        bias_WHnn = bias_1Hnn.expand(num_windows, -1, -1, -1)
        if self.shift:
            bias_WHnn = bias_WHnn + FAR * self.far_Wnn[:, None]  # type: ignore[index, operator]
        return bias_WHnn.flatten(0, 1)[None].to(dtype)


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x_BRCD: Tensor) -> Tensor:
        """(B, R, C, D) to (B, R / 2, C / 2, 2 D). Neighbours by column, then row: (0, 0), (1, 0), (0, 1), (1, 1)."""
        batch, rows, columns, width = x_BRCD.shape
        parts = x_BRCD.view(batch, rows // 2, 2, columns // 2, 2, width).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(parts.flatten(3)))


class SwinStage(nn.Module):
    """Blocks on one grid, then merging, but in the last stage."""

    def __init__(
        self, *, width: int, heads: int, grid: tuple[int, int], window: int, drop_paths: Sequence[float], merges: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(width=width, heads=heads, grid=grid, window=window, shifted=number % 2 == 1, drop_path=probability)
            for number, probability in enumerate(drop_paths)
        )
        self.merge = PatchMerging(width=width) if merges else None


class SwinTransformer(nn.Module):
    """Image encoder."""

    def __init__(
        self,
        *,
        image_px: tuple[int, int],
        patch_px: int,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        drop_path: float,
        init_std: float = 0.02,
    ) -> None:
        """width: of the first stage; each later one has twice that of the one before. drop_path: probability that the last
        block's branches are left out for an image; it rises in a straight line from 0 at the first block."""
        super().__init__()
        grids = stage_grids(image_px, patch_px=patch_px, stages=len(depths), window=window)
        self.grid = grids[-1]
        self.width = width * 2 ** (len(depths) - 1)
        self.checkpointing = False
        self.patch_embed = nn.Conv2d(3, width, kernel_size=patch_px, stride=patch_px)
        self.patch_norm = nn.LayerNorm(width)
        probabilities = iter(torch.linspace(0, drop_path, sum(depths), device="cpu", dtype=torch.float64).tolist())
        self.stages = nn.ModuleList(
            SwinStage(
                width=width * 2**stage,
                heads=heads[stage],
                grid=grids[stage],
                window=window,
                drop_paths=[next(probabilities) for _ in range(depth)],
                merges=stage < len(depths) - 1,
            )
            for stage, depth in enumerate(depths)
        )
        self.norm = nn.LayerNorm(self.width)
        self._initialise(init_std)

    def forward(self, image_BCHW: Tensor, groups: Groups | None = None) -> Tensor:
        """(B, 3, H, W) normalised pixels to (B, P, D): the mean of the tokens, then the tokens, row by row.

        groups: which images belong to which group of pairs (default: all to group 0), for `drop_path`.
        """
        groups = groups or Groups(numbers=(0,), rows=(image_BCHW.shape[0],))
        x_BRCD = self.patch_norm(embed_patches(self.patch_embed, image_BCHW))
        for stage in self.stages:
            for block in stage.blocks:  # type: ignore[union-attr]
                if self.checkpointing and torch.is_grad_enabled():
                    x_BRCD = checkpoint(block, x_BRCD, groups, use_reentrant=False)
                else:
                    x_BRCD = block(x_BRCD, groups)
            if stage.merge is not None:
                x_BRCD = stage.merge(x_BRCD)  # type: ignore[operator]
        token_BND = self.norm(x_BRCD).flatten(1, 2)
        return torch.cat([token_BND.mean(1, keepdim=True), token_BND], dim=1)

    def _initialise(self, std: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, SwinBlock):
                nn.init.trunc_normal_(module.position_bias, std=0.02)


def stage_grids(image_px: tuple[int, int], *, patch_px: int, stages: int, window: int) -> list[tuple[int, int]]:
    """Rows and columns of each stage's tokens. ValueError: a side that patches, windows or merging do not divide."""
    grids = []
    rows, columns = image_px[0] / patch_px, image_px[1] / patch_px
    for _ in range(stages):
        side = min(window, rows, columns)
        if not (rows.is_integer() and columns.is_integer()) or rows % side or columns % side:
            smallest = patch_px * 2 ** (stages - 1)
            raise ValueError(
                f"images of {image_px[0]} x {image_px[1]} px do not fit {stages} stages of patches of {patch_px} px in"
                f" windows of {window}: a stage would have {rows:g} x {columns:g} tokens; expected both sides in multiples"
                f" of {smallest} px, and every stage's in multiples of the window or of its shorter side"
            )
        grids.append((int(rows), int(columns)))
        rows, columns = rows / 2, columns / 2
    return grids


def window_offsets(side: int) -> Tensor:
    """(n, n) int64: for query and key, both row by row, the row of their offset in a position bias.

    (row_q - row_k + w - 1) * (2 w - 1) + column_q - column_k + w - 1
    """
    place_n = torch.arange(side * side)
    row_n, column_n = place_n // side, place_n % side
    vertical_nn, horizontal_nn = row_n[:, None] - row_n, column_n[:, None] - column_n
    return (vertical_nn + side - 1) * (2 * side - 1) + horizontal_nn + side - 1


def far_pairs(grid: tuple[int, int], side: int, shift: int) -> Tensor:
    """(W, n, n) bool: tokens of a shifted window that lie on opposite borders of the image.

    Shifted by s, the last s rows come from the first ones, and so do columns: a window there holds up to four regions.
    """
    rows, columns = grid
    new_row_R, new_column_C = torch.arange(rows) >= rows - shift, torch.arange(columns) >= columns - shift
    region_RC = 2 * new_row_R.long()[:, None] + new_column_C.long()
    region_Wn = region_RC.view(rows // side, side, columns // side, side).transpose(1, 2).reshape(-1, side * side)
    return region_Wn[:, :, None] != region_Wn[:, None, :]
