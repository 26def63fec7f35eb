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
    assert layout.image_S is not None and packing.image_grid_IQ is not None and packing.image_flat_N is not None
    image_N = torch.from_numpy(layout.image_S[layout.sequence_N])
    assert torch.equal(image_N, image_N.sort().values)  # grouped by image
    number_N = torch.arange(tokens.sum())
    by_image = number_N[packing.image_grid_IQ]
    for image in range(5):
        expected = number_N[image_N == image]
        assert torch.equal(by_image[image, : len(expected)], expected)
    assert torch.equal(by_image.flatten()[packing.image_flat_N], number_N)


def test_sequences_of_an_image_keep_their_order() -> None:
    layout = lay_out([2, 1, 3, 1], image=[1, 0, 1, 0], num_images=3)
    assert layout.sequence_N.tolist() == [1, 3, 0, 0, 2, 2, 2]
    assert layout.start_S.tolist() == [2, 0, 4, 1]
    packing = layout.to(CPU)
    assert packing.image_grid_IQ is not None
    assert packing.image_grid_IQ.tolist() == [[0, 1, 0, 0, 0], [2, 3, 4, 5, 6], [0, 0, 0, 0, 0]]  # image 2 is not looked at


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
