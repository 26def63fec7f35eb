"""Vision transformer: patch order, kept patches, resized positions, activation checkpointing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_encoders import tiny_vit
from torch import nn

from tbps.nn.patches import as_product, embed_patches
from tbps.nn.vit import VisionTransformer, resize_positions


def test_patches_are_embedded_in_raster_order() -> None:
    vit = tiny_vit()
    image = torch.randn(2, 3, 16, 8)
    found = vit.patches(image)
    assert found.shape == (2, 8, 12)
    for row in range(4):
        for column in range(2):
            number = 2 * row + column
            pixels = image[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            expected = F.linear(pixels.flatten(1), vit.patch_embed.weight.flatten(1), vit.patch_embed.bias)
            assert torch.allclose(found[:, number], expected + vit.positions[0, 1 + number], atol=1e-5)


@pytest.mark.parametrize("image_px", [(16, 8), (19, 10)])
@pytest.mark.parametrize("bias", [True, False])
def test_patches_as_one_product_are_those_of_the_convolution(image_px: tuple[int, int], bias: bool) -> None:
    layer = nn.Conv2d(3, 12, kernel_size=4, stride=4, bias=bias)
    image = torch.randn(2, 3, *image_px)
    expected = embed_patches(layer, image)
    found = as_product(layer, image)
    assert found.shape == (2, 4, 2, 12)
    assert torch.allclose(found, expected, atol=1e-5)
    weight_of = [torch.autograd.grad(x.square().sum(), layer.weight)[0] for x in (found, expected)]
    assert torch.allclose(*weight_of, rtol=1e-4, atol=1e-3)


def test_kept_patches_are_encoded_as_if_the_others_did_not_exist() -> None:
    vit = tiny_vit()
    patch = vit.patches(torch.randn(2, 3, 16, 8))
    keep = torch.tensor([[5, 0, 3], [1, 2, 7]])
    found = vit.encode(patch, keep_BK=keep)
    for image in range(2):
        assert torch.allclose(found[image], vit.encode(patch[image : image + 1, keep[image]])[0], atol=1e-5)


def test_all_patches_in_any_order_give_the_same_tokens() -> None:
    vit = tiny_vit()
    image = torch.randn(2, 3, 16, 8)
    order = torch.stack([torch.randperm(8), torch.randperm(8)])
    found, plain = vit.encode(vit.patches(image), keep_BK=order), vit(image)
    assert plain.shape == (2, 9, 12)
    assert torch.allclose(found[:, 0], plain[:, 0], atol=1e-5)
    assert torch.allclose(found[:, 1:], plain[:, 1:].gather(1, order[..., None].expand(-1, -1, 12)), atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_layer_for_cls_alone_gives_its_row_and_its_gradients(checkpointing: bool) -> None:
    image = torch.randn(2, 3, 16, 8)
    outcomes = []
    for first_only in (False, True):
        vit = tiny_vit()
        vit.checkpointing = checkpointing
        token_BPD = vit(image, first_only=first_only)
        token_BPD[:, 0].square().sum().backward()
        outcomes.append((token_BPD, [parameter.grad for parameter in vit.parameters()]))
    (whole, gradients), (first, expected) = outcomes
    assert first.shape == (2, 1, 12) and torch.allclose(whole[:, :1], first, atol=1e-6)
    for found, gradient in zip(gradients, expected, strict=True):
        assert found is not None and gradient is not None and torch.allclose(found, gradient, rtol=1e-4, atol=1e-5)


def test_activation_checkpointing_changes_nothing() -> None:
    image = torch.randn(2, 3, 16, 8)
    outcomes = []
    for on in (False, True):
        vit = tiny_vit()
        vit.checkpointing = on
        loss = vit(image).square().sum()
        loss.backward()
        outcomes.append((loss, [parameter.grad for parameter in vit.parameters()]))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    for plain, recomputed in zip(outcomes[0][1], outcomes[1][1], strict=True):
        assert plain is not None and recomputed is not None
        assert torch.equal(plain, recomputed)


def test_image_of_no_whole_patches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image_px is \(16, 9\), expected multiples of patch_px \(4\); change one of them"):
        VisionTransformer(image_px=(16, 9), patch_px=4, width=12, depth=1, heads=3)


def test_positions_of_an_equal_grid_are_returned_unchanged() -> None:
    position = torch.randn(1, 7, 4)
    assert resize_positions(position, grid=(3, 2), old_grid=(3, 2)) is position


def test_resized_positions_keep_cls_and_constants() -> None:
    position = torch.randn(1, 1, 4).expand(1, 10, 4)
    resized = resize_positions(position, grid=(6, 2))
    assert resized.shape == (1, 13, 4)
    assert torch.allclose(resized, position[:, :1].expand(1, 13, 4), atol=1e-5)
    cls = torch.randn(1, 10, 4)
    assert torch.equal(resize_positions(cls, grid=(6, 2))[:, 0], cls[:, 0])


def test_resized_positions_keep_rows_and_columns_apart() -> None:
    by_row = torch.tensor([1.0, 1, 1, 5, 5, 5])  # a 2 x 3 grid
    position = torch.cat([torch.zeros(1, 1, 1), by_row.view(1, 6, 1)], dim=1)
    resized = resize_positions(position, grid=(4, 6), old_grid=(2, 3))[0, 1:, 0].view(4, 6)
    assert torch.allclose(resized, resized[:, :1].expand(4, 6), atol=1e-5)
    assert (resized[1:, 0] > resized[:-1, 0]).all()


def test_positions_of_no_square_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"6 position embeddings, expected a 2 x 2 grid and \[CLS\]; name the old grid"):
        resize_positions(torch.randn(1, 7, 4), grid=(3, 3))
