"""Packed layouts: nothing lost on the way to the padded view, to the view by image, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tbps.nn.packing import Layout, Packing, lay_out, upload

CPU = torch.device("cpu")


def random_layout(seed: int, *, images: int | None = 5) -> tuple[Layout, Packing, np.ndarray]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 9, 11)
    layout = lay_out(tokens, image=None if images is None else rng.integers(0, images, 11), num_images=images or 0)
    return layout, layout.to(CPU), tokens


@pytest.mark.parametrize("images", [None, 5])
@pytest.mark.parametrize("seed", range(5))
def test_padded_view_and_back(seed: int, images: int | None) -> None:
    layout, packing, tokens = random_layout(seed, images=images)
    padded = torch.arange(11 * tokens.max()).view(11, -1)  # every place of the padded view has its own number
    packed = padded[torch.from_numpy(layout.sequence_N), torch.from_numpy(layout.position_N)]
    assert len(packed) == tokens.sum()
    again = packed[packing.grid_SL]
    for sequence, length in enumerate(tokens):
        assert torch.equal(again[sequence, :length], padded[sequence, :length])
    assert torch.equal(again.flatten()[packing.flat_N], packed)
    assert torch.equal(packed[packing.first_S], padded[:, 0])
    assert torch.equal(packing.position_N, torch.from_numpy(layout.position_N))


@pytest.mark.parametrize("seed", range(5))
def test_view_by_image_and_back(seed: int) -> None:
    layout, packing, tokens = random_layout(seed)
    assert layout.image_S is not None and packing.views[0].image_grid_IQ is not None and packing.image_flat_N is not None
    image_N = torch.from_numpy(layout.image_S[layout.sequence_N])
    assert torch.equal(image_N, image_N.sort().values)  # grouped by image
    number_N = torch.arange(tokens.sum())
    by_image = number_N[packing.views[0].image_grid_IQ]
    for image in range(5):
        expected = number_N[image_N == image]
        assert torch.equal(by_image[image, : len(expected)], expected)
    assert torch.equal(by_image.flatten()[packing.image_flat_N], number_N)


def test_sequences_of_an_image_keep_their_order() -> None:
    layout = lay_out([2, 1, 3, 1], image=[1, 0, 1, 0], num_images=3)
    assert layout.sequence_N.tolist() == [1, 3, 0, 0, 2, 2, 2]
    assert layout.start_S.tolist() == [2, 0, 4, 1]
    packing = layout.to(CPU)
    grid_IQ = packing.views[0].image_grid_IQ
    assert grid_IQ is not None
    assert grid_IQ.tolist() == [[0, 1, 0, 0, 0], [2, 3, 4, 5, 6], [0, 0, 0, 0, 0]]  # image 2 is not looked at


@pytest.mark.parametrize("seed", range(5))
def test_views_of_groups(seed: int) -> None:
    """A group's view is the packing of its sequences alone, its tokens lie side by side, and the way back finds them."""
    rng = np.random.default_rng(seed)
    tokens, image = rng.integers(1, 9, 14), rng.permutation([*range(6), *rng.integers(0, 6, 8)])
    group = np.array([2, 2, 3, 3, 3, 7])[image]
    layout = lay_out(tokens, keys=np.maximum(tokens - 1, 1), group=group, image=image, num_images=6)
    packing = layout.to(CPU)
    assert packing.groups.numbers == (2, 3, 7) and [view.group for view in packing.views] == [2, 3, 7]
    assert [view.images for view in packing.views] == [slice(0, 2), slice(2, 5), slice(5, 6)]
    number_N, first = torch.arange(tokens.sum()), 0
    for view, rows in zip(packing.views, packing.groups.rows, strict=True):
        members = np.flatnonzero(group == view.group)
        keys, shown = np.maximum(tokens[members] - 1, 1), image[members] - view.images.start
        alone = lay_out(tokens[members], keys=keys, image=shown, num_images=shown.max() + 1).to(CPU)
        own_N = torch.cat([number_N[first : first + rows], number_N[:1]])
        for found, expected in (
            (view.grid_SL, alone.grid_SL),
            (view.image_grid_IQ, alone.views[0].image_grid_IQ),
        ):
            assert found is not None and expected is not None and found.shape == expected.shape
            real = found.flatten() >= first if first else torch.ones(found.numel(), dtype=torch.bool)
            assert torch.equal(own_N[expected.flatten()][real], found.flatten()[real])
        assert view.key_bias_SL is not None and torch.equal(view.key_bias_SL, alone.key_bias_SL)  # type: ignore[arg-type]
        first += rows
    assert packing.image_flat_N is not None
    for flat_N, grids in (
        (packing.flat_N, [view.grid_SL for view in packing.views]),
        (packing.image_flat_N, [view.image_grid_IQ for view in packing.views]),
    ):
        assert torch.equal(torch.cat([grid.flatten() for grid in grids if grid is not None])[flat_N], number_N)


def test_sequences_without_images_are_sorted_by_group() -> None:
    layout = lay_out([2, 1, 3, 1], group=[1, 0, 1, 0])
    assert layout.sequence_N.tolist() == [1, 3, 0, 0, 2, 2, 2]
    packing = layout.to(CPU)
    assert packing.groups.rows == (2, 5)
    assert packing.grid_SL.tolist() == [[2, 3, 0], [0, 0, 0], [4, 5, 6], [1, 0, 0]]


def test_rows_of_given_tokens() -> None:
    layout, _, tokens = random_layout(7)
    for sequence in range(11):
        for position in range(tokens[sequence]):
            row = layout.rows(np.array([sequence]), np.array([position]))[0]
            assert (layout.sequence_N[row], layout.position_N[row]) == (sequence, position)


def test_key_bias_hides_what_is_not_attended() -> None:
    bias = lay_out([3, 2], keys=[2, 1]).to(CPU).key_bias_SL
    assert bias is not None
    assert bias.tolist() == [[[[0, 0, -10_000]]], [[[0, -10_000, -10_000]]]]
    assert lay_out([3, 3]).to(CPU).key_bias_SL is None


def test_upload_keeps_arrays_apart() -> None:
    parts = upload([np.array([[1, 2], [3, 4]]), np.zeros(0, np.int64), np.array([True, False])], CPU)
    assert [part.tolist() for part in parts] == [[1, 2, 3, 4], [], [1, 0]]
    assert all(part.dtype == torch.int64 for part in parts)
