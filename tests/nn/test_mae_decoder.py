"""MARS's image decoder: where mask tokens stand, which text it sees, activation checkpointing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tiny_encoders import shaken
from torch import Tensor

from tbps.nn.mae_decoder import MaeDecoder
from tbps.objectives.mae import keep_patches


def decoder() -> MaeDecoder:
    return shaken(lambda: MaeDecoder(width=12, text_width=10, depth=2, heads=2, num_patches=6, patch_px=2))


def patches_kept() -> tuple[Tensor, Tensor]:
    noise = np.random.default_rng(0).random((3, 6), dtype=np.float32)
    keep, restore = keep_patches(noise, mask_ratio=0.5)
    return torch.from_numpy(keep), torch.from_numpy(restore)


def test_kept_patches_return_to_their_places_and_mask_tokens_fill_the_rest() -> None:
    model = decoder()
    keep, restore = patches_kept()
    token = torch.randn(3, 4, 12)
    seen: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    found = model(token, restore, torch.randn(3, 5, 10), text_bias=None)
    assert found.shape == (3, 6, 12)
    for image in range(3):
        assert torch.allclose(seen[0][image, 0], token[image, 0] + model.positions[0], atol=1e-6)
        for patch in range(6):
            expected = model.mask_token[0, 0]
            if patch in keep[image].tolist():
                expected = token[image, 1 + keep[image].tolist().index(patch)]
            assert torch.allclose(seen[0][image, 1 + patch], expected + model.positions[1 + patch], atol=1e-6)


def test_hidden_text_has_no_influence_and_seen_text_has() -> None:
    model, (_, restore) = decoder(), patches_kept()
    token, text = torch.randn(3, 4, 12), torch.randn(3, 5, 10)
    bias = torch.zeros(3, 1, 1, 5)
    bias[:, :, :, 3:] = -10_000
    changed = text.clone()
    changed[:, 3:] = torch.randn(3, 2, 10)
    found = model(token, restore, text, text_bias=bias)
    assert torch.allclose(found, model(token, restore, changed, text_bias=bias), atol=1e-6)
    assert torch.allclose(found, model(token, restore, text[:, :3], text_bias=None), atol=1e-5)
    assert not torch.allclose(found, model(token, restore, changed, text_bias=None), atol=1e-3)


def test_activation_checkpointing_changes_nothing() -> None:
    _, restore = patches_kept()
    token, text = torch.randn(3, 4, 12), torch.randn(3, 5, 10)
    outcomes: list[tuple[Tensor, list[Any]]] = []
    for on in (False, True):
        model = decoder()
        model.checkpointing = on
        loss = model(token, restore, text, text_bias=None).square().sum()
        loss.backward()
        outcomes.append((loss, [parameter.grad for parameter in model.parameters()]))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    for plain, recomputed in zip(outcomes[0][1], outcomes[1][1], strict=True):
        assert torch.equal(plain, recomputed)
