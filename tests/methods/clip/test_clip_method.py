"""CLIP as a method: its losses, a batch in shares, its features, the settings it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recipes import clip
from tbps.config.clip_sizes import ClipSizes, ImageTowerSizes, TextTowerSizes
from tbps.config.methods.clip import Clip, ClipWeights
from tbps.data.batch import Batch, Draws
from tbps.data.contrast_scope import ContrastScope, with_identity
from tbps.methods.registry import build_method
from tbps.text.token_batch import Captions

TOWERS = ClipSizes(
    image=ImageTowerSizes(width=24, layers=2, heads=2, intermediate=96, patch_px=8),
    text=TextTowerSizes(width=16, layers=2, heads=2, intermediate=64, vocabulary_size=60, max_positions=20),
    features=12,
)
ALL = Clip(towers=TOWERS, weights=ClipWeights(itc=1.0, ritc=0.5), positives="identity", soft_targets=0.4)
IDENTITY = torch.tensor([2, 0, 2, 1, 0, 3])
NO_DRAWS = Draws(numbers={})


def build(config: Clip = ALL) -> Any:
    torch.manual_seed(0)
    method = build_method(config, image_px=(32, 16))
    with torch.no_grad():
        for parameter in method.towers.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method.train()


def batch(rows: slice = slice(None), scope: ContrastScope | None = None) -> Batch:
    """Six pairs, or some of them."""
    generator = torch.Generator().manual_seed(1)
    lengths = (5, 12, 3, 20, 7, 9)
    ids = torch.randint(1, 57, (6, 20), generator=generator)
    ids[:, 0] = 58
    for row, length in enumerate(lengths):
        ids[row, length - 1 :] = torch.tensor([59] + [0] * (20 - length))
    own = Captions(token_ids_BL=ids[rows], lengths=lengths[rows], chunk_id_BL=torch.zeros_like(ids[rows]))
    return Batch(
        image_BCHW=torch.randn(6, 3, 32, 16, generator=generator)[rows],
        own=own,
        paired=own,
        replaced_B=torch.zeros_like(IDENTITY[rows]),
        identity_B=IDENTITY[rows],
        group_pairs=2,
        epoch=0.5,
        scope=scope,  # type: ignore[arg-type]
    )


def total(method: Any, one: Batch) -> Tensor:
    losses, _ = method(one, NO_DRAWS)
    assert losses.keys() == method.weights.keys()
    found: Tensor = sum(method.weights[name] * loss for name, loss in losses.items())  # type: ignore[assignment]
    return found


def test_a_batch_in_shares_has_the_loss_and_gradients_of_the_whole() -> None:
    method = build()
    whole = total(method, batch())
    whole.backward()
    expected = {name: parameter.grad.clone() for name, parameter in method.named_parameters()}
    with torch.no_grad():
        made = with_identity(method.contrast_rows(batch(), NO_DRAWS), IDENTITY)
    method.zero_grad()
    shares = [slice(0, 2), slice(2, 6)]
    for rows in shares:
        scope = ContrastScope(IDENTITY[rows], shares=2, first_row=rows.start, made=made)
        loss = total(method, batch(rows, scope))
        assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
        (loss / len(shares)).backward()
    for name, parameter in method.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-6, rtol=1e-4), name


def test_every_parameter_gets_a_gradient() -> None:
    method = build()
    total(method, batch()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in method.parameters())
    assert method.untrained(reranks=False) == []


def test_the_scale_is_logged_and_bounded() -> None:
    method = build(replace(ALL, logit_scale=20.0))
    _, numbers = method(batch(), NO_DRAWS)
    assert numbers["logit_scale"].item() == pytest.approx(20.0)
    with torch.no_grad():
        method.logit_scale.fill_(math.log(500.0))
    _, numbers = method(batch(), NO_DRAWS)
    assert numbers["logit_scale"].item() == pytest.approx(100.0)
    assert not numbers["logit_scale"].requires_grad


def test_evaluation_ranks_by_what_training_contrasts() -> None:
    method = build().eval()
    one = batch()
    rows = method.contrast_rows(one, NO_DRAWS)
    image, caption = method.embed_images(one.image_BCHW), method.embed_captions(one.own)
    assert torch.equal(image.feature_IE, rows["image"]) and torch.equal(caption.feature_QE, rows["caption"])
    assert torch.allclose(image.feature_IE.norm(dim=1), torch.ones(6))
    assert image.tokens_IPD is None and caption.hidden_ND is None and method.matcher() is None


def test_losses_fall_when_features_meet() -> None:
    method = build(Clip(towers=TOWERS))
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    values = []
    for _ in range(40):
        loss = total(method, batch())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < 0.1 < 1.0 < values[0]


def test_activation_checkpointing_reaches_both_towers() -> None:
    method = build()
    plain = total(method, batch())
    method.set_activation_checkpointing(True)
    assert method.towers.image.blocks.checkpointing and method.towers.text.blocks.checkpointing
    assert torch.equal(total(method, batch()), plain)


def test_bfloat16_autocast_stays_near_float32() -> None:
    method = build()
    exact = total(method, batch())
    with torch.autocast("cpu", torch.bfloat16):
        rough = total(method, batch())
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)


def with_data(**changes: Any) -> Any:
    run = clip.tiny()
    return replace(run, data=replace(run.data, **changes))


def with_vocabulary(vocabulary: str) -> Any:
    data = clip.tiny().data
    return with_data(captioning=replace(data.captioning, vocabulary=vocabulary))


UNFIT = {
    "no loss": (
        lambda: ClipWeights(itc=0),
        "every weight in method.weights (itc, ritc) is 0, expected at least one loss to train by",
    ),
    "half a patch": (
        lambda: with_data(image_px=(64, 36)),
        "data.image_px is 64 36, expected multiples of method.towers.image.patch_px (8); change one of them",
    ),
    "BERT's vocabulary": (
        lambda: with_vocabulary("bert-base-uncased"),
        "data.captioning.vocabulary is 'bert-base-uncased', expected 'clip': the text encoder reads CLIP's byte pairs",
    ),
    "longer captions than positions": (
        lambda: with_data(captioning=replace(clip.tiny().data.captioning, max_tokens=78)),
        "data.captioning.max_tokens is 78, expected at most 77, the longest caption that the text encoder reads",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_settings_that_do_not_fit_are_named(name: str) -> None:
    make, sentence = UNFIT[name]
    with pytest.raises(ValueError) as raised:
        make()
    assert sentence in str(raised.value)


def test_features_are_unit_rows_of_the_towers() -> None:
    method, one = build(), batch()
    expected = F.normalize(method.towers.image(one.image_BCHW)[:, 0], dim=-1)
    assert torch.allclose(method.contrast_rows(one, NO_DRAWS)["image"], expected, atol=1e-6)
