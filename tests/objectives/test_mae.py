"""Masked autoencoding: which patches stay, the order of a patch's values, and MARS Eq. 16 by loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from finite_differences import FLOAT32

from tbps.objectives.mae import keep_patches, patch_pixels, reconstruction_loss


@pytest.mark.parametrize(("patches", "ratio", "kept"), [(8, 0.75, 2), (6, 0.5, 3), (7, 0.75, 1), (4, 0.0, 4)])
def test_the_patches_of_smallest_noise_are_kept(patches: int, ratio: float, kept: int) -> None:
    noise = np.random.default_rng(0).random((3, patches), dtype=np.float32)
    keep, restore = keep_patches(noise, mask_ratio=ratio)
    assert keep.shape == (3, kept)
    for row in range(3):
        by_noise = sorted(range(patches), key=lambda patch: noise[row, patch])
        assert keep[row].tolist() == by_noise[:kept]
        assert [by_noise[place] for place in restore[row]] == list(range(patches))


def test_ties_keep_the_earlier_patch() -> None:
    keep, restore = keep_patches(np.zeros((1, 5), np.float32), mask_ratio=0.6)
    assert keep.tolist() == [[0, 1]]
    assert restore.tolist() == [[0, 1, 2, 3, 4]]


def test_patches_are_in_raster_order_with_channels_fastest() -> None:
    image = torch.randn(2, 3, 6, 4)
    patch = patch_pixels(image, patch_px=2)
    assert patch.shape == (2, 6, 12)
    for b in range(2):
        for row in range(3):
            for column in range(2):
                values = [
                    image[b, channel, 2 * row + y, 2 * column + x].item()
                    for y in range(2)
                    for x in range(2)
                    for channel in range(3)
                ]
                assert patch[b, 2 * row + column].tolist() == values


def test_loss_equals_loops() -> None:
    predicted, pixels = torch.randn(2, 4, 12), torch.randn(2, 4, 12)
    removed = torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, 1]])
    means = []
    for image in range(2):
        total = 0.0
        for patch in range(4):
            if removed[image, patch]:
                values = zip(predicted[image, patch].tolist(), pixels[image, patch].tolist(), strict=True)
                total += sum((found - expected) ** 2 for found, expected in values) / 12
        means.append(total / 3)
    assert reconstruction_loss(predicted, pixels, removed).item() == pytest.approx(sum(means) / 2, rel=1e-5)


def test_gradient_reaches_removed_patches_only() -> None:
    predicted = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    pixels, removed = torch.randn(2, 4, 3), torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, 1]])
    assert torch.autograd.gradcheck(lambda each: reconstruction_loss(each, pixels, removed), (predicted,), **FLOAT32)
    (gradient,) = torch.autograd.grad(reconstruction_loss(predicted, pixels, removed), predicted)
    assert torch.equal(gradient.abs().sum(-1) > 0, removed > 0)


def test_a_perfect_rebuild_gives_0() -> None:
    pixels = torch.randn(2, 4, 12)
    assert reconstruction_loss(pixels, pixels, torch.ones(2, 4)).item() == 0
