"""IRRA: every option against the plainest reading of it; the same however a batch is shared out; what is not computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_irra import IDENTITIES, IMAGE_PX, IRRA, LENGTHS, build, captions, gradients, step
from torch import Tensor

from tbps.config.methods.irra import Irra, IrraWeights
from tbps.methods.clip.irra import IrraMethod
from tbps.methods.registry import build_method
from tbps.nn.clip_text import pack_captions
from tbps.objectives.irra_masking import mask_words
from tbps.objectives.sdm import similarity_distribution_matching
from tbps.training.contrast import made_scope, make_rows

PADDINGS = ["masked", "official"]


def plain_losses(method: IrraMethod, config: Irra, *, identities: tuple[int, ...] = IDENTITIES) -> dict[str, Tensor]:
    """IRRA's losses caption by caption, with everything computed at every place, as a reader of the paper would write it."""
    batch, draws = step()
    masked, chosen = mask_words(batch.own.token_ids_BL, draws["mlm"], mask_id=config.mask_id)
    image_BPE = method.towers.image(batch.image_BCHW)
    features, values = [], []
    for row, length in enumerate(LENGTHS):
        padded = 20 if config.padding == "official" else length
        text = pack_captions(masked[row : row + 1], [length], device=torch.device("cpu"), padded_to=padded)
        masked_NE = method.towers.text(text)
        ids = masked if config.mask_text_for_all_losses else batch.own.token_ids_BL
        own = pack_captions(ids[row : row + 1], [length], device=torch.device("cpu"))
        features.append(method.towers.text(own)[length - 1])
        logits = method.word_head(method.cross_former(masked_NE, text.packing, image_BPE[row : row + 1]))
        for place in chosen[row].nonzero().flatten().tolist():
            values.append(F.cross_entropy(logits[place], batch.own.token_ids_BL[row, place]))
    image, caption, identity = image_BPE[:, 0], torch.stack(features), torch.tensor(identities)
    unit = [F.normalize(each, dim=1) for each in (image, caption)]
    classified = [F.cross_entropy(method.classifier(each), identity) for each in (image, caption)]
    return {
        "sdm": similarity_distribution_matching(*unit, identity, logit_scale=config.logit_scale),
        "identity": torch.stack(classified).mean(),
        "mlm": torch.stack(values).mean(),
    }


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mask_all", [False, True])
def test_losses_equal_the_plain_ones(padding: Any, mask_all: bool) -> None:
    config = replace(IRRA, padding=padding, mask_text_for_all_losses=mask_all, logit_scale=20.0)
    method = build(config)
    losses, numbers = method(*step())
    expected = plain_losses(method, config)
    assert losses.keys() == expected.keys() == method.weights.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-5), name
    assert numbers.keys() == {"identity_of_image", "identity_of_caption", "words_guessed"}
    assert all(0 <= number <= 100 and not number.requires_grad for number in numbers.values())


def test_each_option_makes_a_difference() -> None:
    found = set()
    for padding in PADDINGS:
        for mask_all in (False, True):
            config = replace(IRRA, padding=padding, mask_text_for_all_losses=mask_all)
            losses, _ = build(config)(*step())
            found.add(tuple(round(loss.item(), 4) for loss in losses.values()))
    assert len(found) == 4


@pytest.mark.parametrize("mask_all", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_batch_in_parts_has_the_losses_and_gradients_of_the_whole(padding: Any, mask_all: bool) -> None:
    method = build(replace(IRRA, padding=padding, mask_text_for_all_losses=mask_all))
    losses, numbers, whole = gradients(method, *step())
    parts = [step(slice(start, start + 2)) for start in range(0, 8, 2)]
    counts = {int(method.word_task(batch.own, draws).count_B.sum()) for batch, draws in parts}
    assert len(counts) > 1, "parts have different numbers of masked words"
    rows = make_rows([lambda part=part: part for part in parts], method.contrast_rows)
    assert rows["masked_words"].sum() == method.word_task(step()[0].own, step()[1]).count_B.sum()
    shared = []
    for batch, draws in parts:
        batch.scope = made_scope(batch, rows, shares=4)
        shared.append(gradients(method, batch, draws))
    for name, loss in losses.items():
        values = [part[0][name] for part in shared]
        assert torch.stack(values).mean().item() == pytest.approx(loss.item(), rel=1e-5), name
    for name, number in numbers.items():
        assert torch.stack([part[1][name] for part in shared]).mean().item() == pytest.approx(number.item()), name
    noise = 5e-6 * max(gradient.abs().max().item() for gradient in whole)  # the gradient of a key's bias is nothing else
    for found, expected in zip(zip(*(part[2] for part in shared), strict=True), whole, strict=True):
        torch.testing.assert_close(torch.stack(found).mean(0), expected, rtol=1e-4, atol=noise)


@pytest.mark.parametrize("padding", PADDINGS)
def test_activation_checkpointing_changes_no_gradient(padding: Any) -> None:
    method = build(replace(IRRA, padding=padding))
    plain = gradients(method, *step())
    method.set_activation_checkpointing(True)
    assert method.cross_former.blocks.checkpointing and method.towers.text.blocks.checkpointing
    again = gradients(method, *step())
    assert plain[0] == again[0]
    assert all(torch.equal(one, other) for one, other in zip(plain[2], again[2], strict=True))


@pytest.mark.parametrize("left_out", ["sdm", "identity", "mlm"])
def test_a_loss_without_weight_is_left_out_with_its_parts(left_out: str) -> None:
    whole, _ = build()(*step())
    config = replace(IRRA, weights=replace(IrraWeights(), **{left_out: 0.0}))
    method = build(config)
    parts = {name.split(".")[0] for name, _ in method.named_parameters()}
    assert (
        parts
        == {"towers", "classifier", "cross_former", "word_head"}
        - {
            "sdm": set(),
            "identity": {"classifier"},
            "mlm": {"cross_former", "word_head"},
        }[left_out]
    )
    assert bool(config.needs(IMAGE_PX).draws) == (left_out != "mlm")
    assert config.needs(IMAGE_PX).identities == (left_out != "identity")
    losses, _, found = gradients(method, *step())
    assert losses.keys() == whole.keys() - {left_out}
    assert all(gradient.abs().max() > 0 for gradient in found if gradient.dim() == 2), "everything left is trained"


def test_the_text_tower_runs_once_where_all_losses_see_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    for mask_all in (False, True):
        method = build(replace(IRRA, mask_text_for_all_losses=mask_all))
        calls: list[int] = []
        method.towers.text.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        method(*step())
        passes.append(len(calls))
    assert passes == [2, 1]


def test_the_vocabulary_is_asked_at_masked_words_alone() -> None:
    method = build()
    rows: list[int] = []
    method.word_head.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    batch, draws = step()
    method(batch, draws)
    assert rows == [int(mask_words(batch.own.token_ids_BL, draws["mlm"], mask_id=57).chosen_BL.sum())]
    assert rows[0] < sum(LENGTHS) / 3


@torch.no_grad()
def test_features_for_ranking_are_unit_rows_of_clean_captions() -> None:
    method = build(replace(IRRA, mask_text_for_all_losses=True)).eval()
    batch, _ = step()
    images, queries = method.embed_images(batch.image_BCHW), method.embed_captions(batch.own)
    assert images.tokens_IPD is None and queries.hidden_ND is None and method.matcher() is None
    for feature in (images.feature_IE, queries.feature_QE):
        assert torch.allclose(feature.norm(dim=1), torch.ones(8))
    alone = method.embed_captions(captions(LENGTHS[:1])).feature_QE
    assert torch.allclose(alone, queries.feature_QE[:1], atol=1e-6)


def test_bfloat16_is_near_float32() -> None:
    method = build()
    exact, _ = method(*step())
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = method(*step())
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.05), name


def test_the_classifier_starts_as_in_the_official_code() -> None:
    torch.manual_seed(0)
    method = build_method(replace(IRRA, weights=IrraWeights(mlm=0)), image_px=IMAGE_PX, num_identities=500)
    assert method.classifier.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not method.classifier.bias.any()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="the number of training identities is 0, expected at least 1"):
        build_method(IRRA, image_px=IMAGE_PX)
    with pytest.raises(ValueError, match="no other loss trains the features"):
        IrraWeights(sdm=0, identity=0)
    with pytest.raises(ValueError, match="so that no word is masked; turn it off"):
        replace(IRRA, weights=IrraWeights(mlm=0), mask_text_for_all_losses=True)
    with pytest.raises(ValueError, match=r"expected a multiple of method\.cross_heads \(5\)"):
        replace(IRRA, cross_heads=5)
