"""Parts of a body: of Pascal-Person-Part's labels, of patches, of tokens."""

from __future__ import annotations

import torch

from tbps.nn.body_parts import PARTS, graph_mean, pool_parts, split_parts, spread_parts
from tbps.objectives.patch_labels import label_counts, patches_of

# A head (1), arms (3, 4) left and right of a torso (2), legs (5, 6).
BODY = torch.tensor(
    [
        [0, 0, 1, 0, 0, 0],
        [3, 2, 2, 2, 3, 0],
        [4, 2, 2, 2, 4, 0],
        [0, 5, 0, 5, 0, 0],
        [0, 6, 0, 6, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ],
    dtype=torch.uint8,
)


def test_limbs_are_told_apart_by_the_column_of_the_torso() -> None:
    expected = torch.tensor(
        [[0, 0, 1, 0, 0, 0], [3, 2, 2, 2, 4, 0], [3, 2, 2, 2, 4, 0], [0, 5, 0, 6, 0, 0], [0, 5, 0, 6, 0, 0], [0] * 6]
    )
    assert torch.equal(split_parts(BODY[None])[0], expected)


def test_a_pixel_in_the_torsos_middle_column_is_the_right_ones() -> None:
    assert split_parts(torch.tensor([[[2, 2, 2], [0, 5, 0]]], dtype=torch.uint8))[0, 1].tolist() == [0, 6, 0]


def test_a_mirrored_image_exchanges_left_and_right() -> None:
    swapped = torch.tensor([0, 1, 2, 4, 3, 6, 5])
    assert torch.equal(split_parts(BODY.flip(1)[None])[0], swapped[split_parts(BODY[None])[0]].flip(1))


def test_without_a_torso_the_persons_own_middle_divides() -> None:
    legs = torch.where(BODY >= 5, BODY, 0)
    assert split_parts(legs[None])[0].unique().tolist() == [0, 5, 6]
    assert torch.equal(split_parts(torch.zeros(1, 4, 4, dtype=torch.uint8)), torch.zeros(1, 4, 4, dtype=torch.int64))


def test_tokens_are_pooled_and_spread_by_pixels() -> None:
    maps = torch.stack([BODY, torch.where(BODY == 1, BODY, 0), torch.zeros_like(BODY)])
    patches = patches_of(split_parts(maps)[:, None], patch_px=2, stride_px=2)[:, :, 0]
    share = label_counts(patches, num_labels=7)[..., 1:] / 4
    assert share.shape == (3, 9, len(PARTS))
    token = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(0))
    parts = split_parts(maps)
    pooled, present = pool_parts(token, share), share.sum(1) > 0
    assert present.sum(1).tolist() == [6, 1, 0]
    spread = spread_parts(pooled, share, present)
    for image in range(3):
        nodes = []
        for part in range(1, 7):
            pixels = [token[image, row // 2 * 3 + column // 2] for row, column in (parts[image] == part).nonzero().tolist()]
            nodes.append(torch.stack(pixels).mean(0) if pixels else torch.zeros(5))
        torch.testing.assert_close(pooled[image], torch.stack(nodes))
        there = [node for node, seen in zip(nodes, present[image], strict=True) if seen] or nodes
        mean = torch.stack(there).mean(0)
        torch.testing.assert_close(graph_mean(pooled, present)[image], mean)
        for patch in range(9):
            top, left = patch // 3 * 2, patch % 3 * 2
            shown = parts[image, top : top + 2, left : left + 2].flatten().tolist()
            expected = torch.stack([nodes[part - 1] if part else mean for part in shown]).mean(0)
            torch.testing.assert_close(spread[image, patch], expected)
