"""Labels of patches against loops over their pixels: majority, ties, pixels without a say; what mirroring does to them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tbps.data.label_maps import swap_sides
from tbps.data.label_sets import ATR
from tbps.objectives.patch_labels import NOT_COUNTED, UNLABELLED, label_counts, majority_label, patches_of

NUM_LABELS = len(ATR)


def maps(*, labels: int = NUM_LABELS, seed: int = 0) -> Tensor:
    """Three maps of 12 x 8 pixels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(labels, (3, 12, 8), generator=generator, dtype=torch.uint8)


def labels_of(map_BHW: Tensor, *, patch_px: int = 4, stride_px: int = 4) -> Tensor:
    """As a method calls them, all patches."""
    pixels_BNX = patches_of(map_BHW[:, None], patch_px=patch_px, stride_px=stride_px)[:, :, 0]
    return majority_label(label_counts(pixels_BNX, num_labels=NUM_LABELS))


def by_loops(map_BHW: Tensor, *, patch_px: int = 4, stride_px: int = 4) -> list[list[int]]:
    """Pixel by pixel, in plain Python."""
    found = []
    for rows in map_BHW.tolist():
        found.append([])
        for top in range(0, len(rows) - patch_px + 1, stride_px):
            for left in range(0, len(rows[0]) - patch_px + 1, stride_px):
                votes: dict[int, int] = {}
                for row in rows[top : top + patch_px]:
                    for label in row[left : left + patch_px]:
                        if label != NOT_COUNTED:
                            votes[label] = votes.get(label, 0) + 1
                most = max(votes.values(), default=0)
                found[-1].append(min((label for label, count in votes.items() if count == most), default=UNLABELLED))
    return found


@pytest.mark.parametrize("labels", [2, 3, NUM_LABELS])  # few labels tie often
@pytest.mark.parametrize(("patch_px", "stride_px"), [(4, 4), (2, 2), (4, 3), (5, 4)])
def test_majority_and_ties_equal_a_loop(labels: int, patch_px: int, stride_px: int) -> None:
    for seed in range(5):
        found = labels_of(maps(labels=labels, seed=seed), patch_px=patch_px, stride_px=stride_px)
        assert found.tolist() == by_loops(maps(labels=labels, seed=seed), patch_px=patch_px, stride_px=stride_px)


def test_of_a_tie_the_smallest_label_wins() -> None:
    map_BHW = torch.tensor([[[7, 7, 16, 3], [16, 3, 16, 3]]], dtype=torch.uint8)
    assert labels_of(map_BHW, patch_px=2, stride_px=2).tolist() == [[7, 3]]


def test_pixels_without_a_say_are_left_out_and_a_patch_of_them_has_no_label() -> None:
    map_BHW = maps(labels=3)
    map_BHW[:, 2:8, :5] = NOT_COUNTED
    found = labels_of(map_BHW)
    assert found.tolist() == by_loops(map_BHW)
    assert found[0].tolist()[2] == UNLABELLED and UNLABELLED not in found[0].tolist()[4:]
    counts = label_counts(patches_of(map_BHW[:, None], patch_px=4, stride_px=4)[:, :, 0], num_labels=3)
    assert int(counts.sum()) == int((map_BHW != NOT_COUNTED).sum())


def test_an_image_of_background_is_background_everywhere() -> None:
    assert labels_of(torch.zeros(2, 12, 8, dtype=torch.uint8)).unique().tolist() == [0]


def test_a_mirrored_map_has_the_labels_of_the_mirrored_person() -> None:
    """Left and right exchange places and names; without the names, patches of shoes, legs and arms would be wrong."""
    blocks = torch.tensor([[[9, 10], [12, 13], [0, 15]]], dtype=torch.uint8)
    map_BHW = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    mirrored = swap_sides(map_BHW.flip(-1), ATR.sides)
    assert labels_of(map_BHW).tolist() == [[9, 10, 12, 13, 0, 15]]
    assert labels_of(mirrored).tolist() == [[9, 10, 12, 13, 14, 0]]
    assert labels_of(map_BHW.flip(-1)).tolist() == [[10, 9, 13, 12, 15, 0]]


def test_patches_are_those_of_a_convolution() -> None:
    image = torch.randn(2, 3, 13, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for stride_px in (4, 3):
        patches_BNCX = patches_of(image, patch_px=4, stride_px=stride_px)
        expected = torch.nn.functional.conv2d(image, weight, stride=stride_px).flatten(2).transpose(1, 2)
        torch.testing.assert_close(torch.einsum("bncx,dcx->bnd", patches_BNCX, weight.flatten(2)), expected)
