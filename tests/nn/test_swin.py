"""Swin: windows and shifts by loops over tokens, sizes at 384 x 128, merging, skipped branches, checkpointing."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from tiny_encoders import shaken, tiny_swin
from torch import Tensor

from tbps.nn.dropout import Groups
from tbps.nn.swin import FAR, PatchMerging, SwinBlock, SwinTransformer, stage_grids

ONE = Groups(numbers=(0,), rows=(1,))


def block(*, grid: tuple[int, int], window: int, shifted: bool, drop_path: float = 0.0) -> SwinBlock:
    return shaken(lambda: SwinBlock(width=8, heads=2, grid=grid, window=window, shifted=shifted, drop_path=drop_path)).eval()


def attended(swin: SwinBlock, x_RCD: Tensor) -> Tensor:
    """What each token of an image attends to, by loops: of its window, tokens and offsets one by one."""
    rows, columns = swin.grid
    side, shift, width = swin.window, swin.shift, x_RCD.shape[-1]
    query, key, value = swin.qkv(swin.norm1(x_RCD)).split(width, dim=-1)
    head = width // swin.heads
    out = torch.zeros_like(x_RCD)

    def window_of(row: int, column: int) -> tuple[int, int]:
        return (row - shift) % rows // side, (column - shift) % columns // side

    def crossed_border(first: int, other: int, size: int) -> bool:
        """Whether a shift by `shift` brought them together over the image's border."""
        return (first < shift) != (other < shift) and shift > 0 and (first - shift) % size // side == size // side - 1

    for row, column in itertools.product(range(rows), range(columns)):
        seen = [
            (r, c) for r, c in itertools.product(range(rows), range(columns)) if window_of(r, c) == window_of(row, column)
        ]
        assert len(seen) == side * side
        for number in range(swin.heads):
            part = slice(head * number, head * number + head)
            logits = []
            for r, c in seen:
                inside = [(a - shift) % n % side for a, n in ((row, rows), (r, rows), (column, columns), (c, columns))]
                vertical, horizontal = inside[0] - inside[1], inside[2] - inside[3]
                place = (vertical + side - 1) * (2 * side - 1) + horizontal + side - 1
                logit = (query[row, column, part] * key[r, c, part]).sum() / head**0.5 + swin.position_bias[place, number]
                far = crossed_border(row, r, rows) or crossed_border(column, c, columns)
                logits.append(logit + FAR * far)
            share = torch.stack(logits).softmax(0)
            out[row, column, part] = sum(p * value[r, c, part] for p, (r, c) in zip(share, seen, strict=True))
    return swin.out(out)


@pytest.mark.parametrize(
    ("grid", "window", "shifted", "side", "shift"),
    [
        ((8, 6), 2, True, 2, 1),
        ((8, 4), 4, True, 4, 0),  # as 24 x 8 with windows of 8: no shift, along the rows neither
        ((6, 2), 4, True, 2, 0),  # as 12 x 4: the window is the shorter side
        ((8, 8), 4, True, 4, 2),
        ((8, 8), 4, False, 4, 0),
    ],
)
@torch.no_grad()
def test_a_block_is_what_loops_over_windows_give(
    grid: tuple[int, int], window: int, shifted: bool, side: int, shift: int
) -> None:
    swin = block(grid=grid, window=window, shifted=shifted)
    assert (swin.window, swin.shift) == (side, shift)
    x_RCD = torch.randn(*grid, 8)
    hidden = x_RCD + attended(swin, x_RCD)
    expected = hidden + swin.fc2(F.gelu(swin.fc1(swin.norm2(hidden))))
    assert torch.allclose(swin(x_RCD[None], ONE)[0], expected, atol=1e-5)


def test_windows_and_shifts_of_swin_b_at_384_by_128() -> None:
    with torch.device("meta"):
        swin = SwinTransformer(
            image_px=(384, 128),
            patch_px=4,
            width=128,
            depths=(2, 2, 18, 2),
            heads=(4, 8, 16, 32),
            window=8,
            drop_path=0.1,
        )
    found = [[(each.grid, each.window, each.shift) for each in stage.blocks] for stage in swin.stages]
    assert found[0] == [((96, 32), 8, 0), ((96, 32), 8, 4)]
    assert found[1] == [((48, 16), 8, 0), ((48, 16), 8, 4)]
    assert found[2] == [((24, 8), 8, 0)] * 18
    assert found[3] == [((12, 4), 4, 0)] * 2
    assert (swin.grid, swin.width) == ((12, 4), 1024)
    assert sum(parameter.numel() for parameter in swin.parameters()) == 86_753_016
    rates = [each.drop_path for stage in swin.stages for each in stage.blocks]
    assert rates == pytest.approx([0.1 * number / 23 for number in range(24)])


def test_neighbours_merge_by_column_then_row() -> None:
    merging = PatchMerging(width=3)
    x = torch.randn(1, 4, 6, 3)
    four = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
    expected = merging.reduction(merging.norm(torch.cat(four, dim=-1)))
    assert torch.allclose(merging(x), expected, atol=1e-6) and expected.shape == (1, 2, 3, 6)


@torch.no_grad()
def test_the_first_token_is_the_mean_of_the_others_after_the_norm() -> None:
    swin = tiny_swin().eval()
    found = swin(torch.randn(3, 3, 32, 16))
    assert found.shape == (3, 9, 16)
    assert torch.allclose(found[:, 0], found[:, 1:].mean(1), atol=1e-6)


def test_a_branch_is_skipped_for_whole_images_whatever_is_beside_them() -> None:
    swin = tiny_swin(drop_path=0.5).train()
    image = torch.randn(7, 3, 32, 16)
    torch.manual_seed(5)
    together = swin(image, Groups(numbers=(4, 9), rows=(3, 4)))
    for part, number, rows in ((slice(0, 3), 4, 3), (slice(3, 7), 9, 4)):
        torch.manual_seed(5)
        alone = swin(image[part], Groups(numbers=(number,), rows=(rows,)))
        assert torch.allclose(together[part], alone, atol=1e-6)
    torch.manual_seed(5)
    assert not torch.allclose(swin(image[:3], Groups(numbers=(5,), rows=(3,))), together[:3], atol=1e-3)
    assert torch.equal(swin.eval()(image), tiny_swin().eval()(image))


def test_a_skipped_branch_leaves_the_image_and_a_kept_one_counts_more() -> None:
    swin = block(grid=(4, 2), window=2, shifted=False, drop_path=0.4).train()
    x = torch.randn(1, 4, 2, 8).expand(400, -1, -1, -1)
    with torch.no_grad():
        swin.fc2.weight.zero_()
        swin.fc2.bias.zero_()
        moved = swin(x, Groups(numbers=(0,), rows=(400,))) - x
        whole = swin.eval()(x[:1], ONE) - x[:1]
    skipped = (moved == 0).flatten(1).all(1)
    assert 0.3 < skipped.float().mean() < 0.5
    assert torch.allclose(moved[~skipped], (whole / 0.6).expand(int((~skipped).sum()), -1, -1, -1), atol=1e-4)


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        swin = tiny_swin(drop_path=0.3).train()
        swin.checkpointing = checkpointing
        torch.manual_seed(7)
        swin(torch.ones(2, 3, 32, 16) * torch.arange(1, 3).view(2, 1, 1, 1)).square().sum().backward()
        gradients.append([parameter.grad for parameter in swin.parameters()])
    assert all(torch.allclose(one, two, rtol=1e-5, atol=1e-5) for one, two in zip(*gradients, strict=True))


@pytest.mark.parametrize("image_px", [(36, 16), (32, 18), (40, 24)])
def test_sides_that_do_not_fit_are_refused(image_px: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"images of {image_px[0]} x {image_px[1]} px do not fit 2 stages of patches of 4"):
        stage_grids(image_px, patch_px=4, stages=2, window=4)
