"""BiLMa: every option against the plainest reading of it; the same however a batch is shared out; ranking without more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_bilma import BILMA, PATCHES, build, step
from tiny_irra import IDENTITIES, IMAGE_PX, LENGTHS, gradients
from torch import Tensor

from tbps.config.methods.bilma import Bilma, BilmaWeights
from tbps.methods.clip.bilma import BilmaMethod
from tbps.methods.registry import build_method
from tbps.nn.clip_text import pack_captions
from tbps.objectives.irra_masking import mask_words
from tbps.objectives.sdm import similarity_distribution_matching
from tbps.training.contrast import made_scope, make_rows

CPU = torch.device("cpu")
TARGETS = ["semantic", "pixel", "mean-colour", "feature"]
OPTIONS = [
    *({"patch_target": target} for target in TARGETS),
    {"ignore_background": True},
    {"ignore_erased": True},
    {"mask_text_for_all_losses": True},
    {"patch_positions": False},
]


def leaning(method: Any) -> Any:
    """The same, but that it tells one label more often than others, and so is right at times."""
    if method.telling.target == "semantic":
        method.cross_modal_encoder.patch_head.out.bias.data[5] += 3
    return method


def plain_encoder(encoder: Any, image_PE: Tensor, text_LE: Tensor, masked: list[int]) -> Tensor:
    """One [image || caption] sequence through the transformer, with nothing packed: (P + L, E)."""
    rows = []
    for place, token in enumerate(image_PE):
        token = encoder.mask_token if place in masked else token
        rows.append(token if encoder.positions is None else token + encoder.positions[place])
    x = torch.cat([encoder.norm_image(torch.stack(rows)), encoder.norm_text(text_LE)])[None]
    for block in encoder.blocks:
        x = block(x)
    return encoder.norm_post(x)[0]


def plain_label(pixels: Tensor, erased: Tensor, config: Bilma) -> int | None:
    votes = [0] * 18
    for label, gone in zip(pixels.flatten().tolist(), erased.flatten().tolist(), strict=True):
        votes[label] += not (gone and config.ignore_erased)
    label = votes.index(max(votes))
    return None if not max(votes) or (config.ignore_background and label == 0) else label


def plain_losses(method: BilmaMethod, config: Bilma) -> dict[str, Tensor]:
    """BiLMa's losses pair by pair, as a reader of the paper would write them."""
    batch, draws = step()
    masked, chosen = mask_words(batch.own.token_ids_BL, draws["mlm"], mask_id=config.mask_id)
    image_BPE = method.towers.image(batch.image_BCHW)
    encoder: Any = method.cross_modal_encoder
    features, words, patches = [], [], []
    for row, length in enumerate(LENGTHS):
        masked_LE, clean_LE = (
            method.towers.text(pack_captions(ids[row : row + 1], [length], device=CPU))
            for ids in (masked, batch.own.token_ids_BL)
        )
        seen_LE = masked_LE if config.mask_text_for_all_losses else clean_LE
        features.append(seen_LE[-1])
        hidden = plain_encoder(encoder, image_BPE[row], masked_LE, [])
        for place in chosen[row].nonzero().flatten().tolist():
            logits = encoder.word_head(hidden[1 + PATCHES + place])
            words.append(F.cross_entropy(logits, batch.own.token_ids_BL[row, place]))
        numbers = draws["patches"][row].tolist()
        hide = sorted(range(PATCHES), key=lambda patch: numbers[patch])[: round(config.patch_mask_ratio * PATCHES)]
        hidden = plain_encoder(encoder, image_BPE[row], seen_LE, [1 + patch for patch in hide])
        for patch in hide:
            box = (slice(8 * (patch // 2), 8 * (patch // 2) + 8), slice(8 * (patch % 2), 8 * (patch % 2) + 8))
            told = encoder.patch_head(hidden[1 + patch])
            pixels = batch.image_BCHW[row, :, box[0], box[1]]
            if config.patch_target == "semantic":
                label = plain_label(batch.fields[BILMA.field][row][box], batch.erased_BHW[row][box], config)
                if label is not None:
                    patches.append(F.cross_entropy(told, torch.tensor(label)))
                continue
            token = image_BPE[row, 1 + patch].detach()
            target = {
                "pixel": pixels.flatten(),
                "mean-colour": pixels.mean((1, 2)),
                "feature": (token - token.mean()) / (token.var(unbiased=False) + 1e-5).sqrt(),
            }[config.patch_target]
            patches.append((told - target).square().mean())
    image, caption, identity = image_BPE[:, 0], torch.stack(features), torch.tensor(IDENTITIES)
    both = [F.normalize(each, dim=1) for each in (image, caption)]
    classified = [F.cross_entropy(method.classifier(each), identity) for each in (image, caption)]  # type: ignore[misc]
    return {
        "sdm": similarity_distribution_matching(*both, identity, logit_scale=config.logit_scale),
        "identity": torch.stack(classified).mean(),
        "mlm": torch.stack(words).mean(),
        "mim": torch.stack(patches).mean(),
    }


@pytest.mark.parametrize("options", OPTIONS)
def test_losses_and_gradients_equal_the_plain_ones(options: dict[str, Any]) -> None:
    config = replace(BILMA, logit_scale=20.0, **options)
    method = build(config)
    losses, numbers, found = gradients(method, *step())
    expected = plain_losses(method, config)
    assert losses.keys() == expected.keys() == method.weights.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-5), name
    assert all(0 <= number <= 100.001 and not number.requires_grad for number in numbers.values())
    wanted = torch.autograd.grad(torch.stack([*expected.values()]).sum(), list(method.parameters()))
    noise = 5e-6 * max(gradient.abs().max().item() for gradient in wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=noise)


def test_each_option_makes_a_difference() -> None:
    found = {
        tuple(round(loss.item(), 4) for loss in build(replace(BILMA, **options))(*step())[0].values()) for options in OPTIONS
    }
    assert len(found) == len(OPTIONS)


@pytest.mark.parametrize("options", OPTIONS[:-1])
def test_a_batch_in_parts_has_the_losses_and_gradients_of_the_whole(options: dict[str, Any]) -> None:
    method = leaning(build(replace(BILMA, **options)))
    losses, numbers, whole = gradients(method, *step())
    assert numbers.get("patches_told", 1) > 0
    parts = [step(slice(start, start + 2)) for start in range(0, 8, 2)]
    rows = make_rows([lambda part=part: part for part in parts], method.contrast_rows)
    shared = []
    for batch, draws in parts:
        batch.scope = made_scope(batch, rows, shares=4)
        shared.append(gradients(method, batch, draws))
    for name, loss in losses.items():
        values = [part[0][name] for part in shared]
        assert torch.stack(values).mean().item() == pytest.approx(loss.item(), rel=1e-5), name
    for name, number in numbers.items():
        assert torch.stack([part[1][name] for part in shared]).mean().item() == pytest.approx(number.item()), name
    noise = 5e-6 * max(gradient.abs().max().item() for gradient in whole)
    for found, expected in zip(zip(*(part[2] for part in shared), strict=True), whole, strict=True):
        torch.testing.assert_close(torch.stack(found).mean(0), expected, rtol=1e-4, atol=noise)


def test_the_log_tells_each_label_beside_the_commonest() -> None:
    method = leaning(build())
    batch, draws = step()
    _, numbers = method(batch, draws)
    plan = method.plan(batch, draws)
    logits = method.tell_patches(method.encode(batch, plan), plan)
    labels, told = plan.patches.label_M.tolist(), logits.argmax(1).tolist()
    right = [one == other for one, other in zip(labels, told, strict=True)]
    assert numbers["patches_told"].item() == pytest.approx(100 * sum(right) / len(right))
    most = max(labels.count(label) for label in labels)
    assert numbers["patches_of_commonest_label"].item() == pytest.approx(100 * most / len(labels))
    assert len(set(labels)) > 2 and any(right)
    for number, name in enumerate(method.telling.labels):
        own = [each for each, label in zip(right, labels, strict=True) if label == number]
        assert numbers[f"patches_told/{name}"].item() == pytest.approx(100 * sum(own) / max(len(own), 1)), name


def test_activation_checkpointing_changes_no_gradient() -> None:
    method = build()
    plain = gradients(method, *step())
    method.set_activation_checkpointing(True)
    assert method.cross_modal_encoder.blocks.checkpointing and method.towers.text.blocks.checkpointing
    again = gradients(method, *step())
    assert plain[0] == again[0]
    assert all(torch.equal(one, other) for one, other in zip(plain[2], again[2], strict=True))


@pytest.mark.parametrize(
    ("left_out", "gone"),
    [
        (("sdm",), ()),
        (("identity",), ("classifier",)),
        (("mlm",), ("cross_modal_encoder.word_head",)),
        (("mim",), ("cross_modal_encoder.patch_head", "cross_modal_encoder.mask_token")),
        (("mlm", "mim"), ("cross_modal_encoder",)),
    ],
)
def test_a_loss_without_weight_is_left_out_with_its_parts(left_out: tuple[str, ...], gone: tuple[str, ...]) -> None:
    whole, _ = build()(*step())
    names = {name for name, _ in build().named_parameters()}
    config = replace(BILMA, weights=replace(BilmaWeights(), **dict.fromkeys(left_out, 0.0)))
    method = build(config)
    assert {name for name, _ in method.named_parameters()} == {name for name in names if not name.startswith(gone or ("-",))}
    needs = config.needs(IMAGE_PX)
    assert bool(needs.fields) == ("mim" not in left_out) and needs.identities == ("identity" not in left_out)
    assert len(needs.draws) == 2, "leaving a loss out moves no other choice"
    losses, _, found = gradients(method, *step())
    assert losses.keys() == whole.keys() - set(left_out)
    assert all(gradient.abs().max() > 0 for gradient in found if gradient.dim() == 2), "everything left is trained"


def test_heads_are_asked_at_masked_tokens_alone() -> None:
    method = build()
    rows: list[int] = []
    for head in (method.cross_modal_encoder.word_head, method.cross_modal_encoder.patch_head):
        head.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    batch, draws = step()
    method(batch, draws)
    words = int(mask_words(batch.own.token_ids_BL, draws["mlm"], mask_id=57).chosen_BL.sum())
    assert rows == [words, 8 * round(0.4 * PATCHES)]


@torch.no_grad()
def test_ranking_reads_no_parameter_that_an_export_leaves_out() -> None:
    method = build().eval()
    batch, _ = step()
    before = method.embed_images(batch.image_BCHW).feature_IE, method.embed_captions(batch.own).feature_QE
    dropped = [name for name, _ in method.named_parameters() if name.startswith(Bilma.TRAINING_ONLY)]
    assert len(dropped) > 20
    for name in dropped:
        method.get_parameter(name).fill_(float("nan"))
    after = method.embed_images(batch.image_BCHW).feature_IE, method.embed_captions(batch.own).feature_QE
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other) and torch.allclose(one.norm(dim=1), torch.ones(8))
    assert method.matcher() is None


@torch.no_grad()
def test_positions_start_as_those_of_the_image_tower() -> None:
    method = build()
    method.before_first_step()
    image = method.towers.image
    torch.testing.assert_close(method.cross_modal_encoder.positions, image.positions @ image.projection.weight.T)
    build(replace(BILMA, patch_positions=False)).before_first_step()


def test_bfloat16_is_near_float32() -> None:
    method = build()
    exact, _ = method(*step())
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = method(*step())
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.05), name


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="the number of training identities is 0, expected at least 1"):
        build_method(BILMA, image_px=IMAGE_PX)
    with pytest.raises(ValueError, match="no other loss trains the features"):
        BilmaWeights(sdm=0, identity=0)
    with pytest.raises(ValueError, match="so that no word is masked; turn it off"):
        replace(BILMA, weights=BilmaWeights(mlm=0), mask_text_for_all_losses=True)
    with pytest.raises(ValueError, match=r"expected a multiple of method\.encoder_heads \(5\)"):
        replace(BILMA, encoder_heads=5)
    for changes in ({"patch_target": "pixel"}, {"weights": BilmaWeights(mim=0)}):
        with pytest.raises(ValueError, match="ignore_erased is on, and no label of a patch is predicted"):
            replace(BILMA, ignore_erased=True, **changes)  # type: ignore[arg-type]
