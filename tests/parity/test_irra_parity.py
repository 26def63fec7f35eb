"""One training step of IRRA reproduces the recorded numbers of the official code, with clean captions and with masked ones.

Outputs to 2e-5, losses and gradients to 1e-4, in float32, through the code that trains and the converter that users call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recorded_irra import RecordedIrra
from recordings import recording
from torch import Tensor

from recipes.irra import cuhk_pedes
from tbps.config.optim import Optimiser
from tbps.convert.irra_names import to_irra
from tbps.data.batch import Draws
from tbps.objectives.irra_masking import mask_words
from tbps.objectives.sdm import identity_distribution
from tbps.training.optimiser import make_optimiser
from tbps.training.schedule import learning_rate

OUTPUT, LOSS, GRADIENT = 2e-5, 1e-4, 1e-4
"""Tolerances; see the guide to the recordings: float32 noise is about a tenth of each."""
LOSSES = {"sdm": "sdm", "identity": "id", "mlm": "mlm"}
"""Our names of losses, and the official ones."""


def weighted(recorded: RecordedIrra, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """As recorded: each loss times its weight, and their sum."""
    found = {LOSSES[name]: recorded.method.weights[name] * loss for name, loss in losses.items()}
    return found | {"total": torch.stack(list(found.values())).sum()}


def test_recorded_masks_follow_from_their_numbers() -> None:
    recorded = RecordedIrra()
    masked = mask_words(
        recorded.tensors["inputs.caption_ids"],
        recorded.mask_numbers(),
        mask_id=recorded.config.mask_id,
        probability=recorded.config.mlm_probability,
    )
    assert torch.equal(masked.token_ids_BL, recorded.tensors["draws.mlm_ids"])
    assert torch.equal(masked.chosen_BL, recorded.tensors["draws.mlm_labels"] != 0)
    assert masked.chosen_BL.sum(1).tolist() == recorded.about["masking"]["labels_per_row"]


def test_losses_and_gradients_with_clean_captions() -> None:
    recorded = RecordedIrra()
    losses, numbers = recorded.method(recorded.batch, recorded.draws)
    found = weighted(recorded, losses)
    for name, loss in found.items():
        recorded.expect(f"loss.{name}", loss, LOSS)
    for ours, theirs in (("identity_of_image", "image_id"), ("identity_of_caption", "text_id"), ("words_guessed", "mlm")):
        recorded.expect(f"acc.{theirs}", numbers[ours] / 100, LOSS)
    found["total"].backward()
    gradients = to_irra({name: parameter.grad for name, parameter in recorded.method.named_parameters()})
    for key, expected in recorded.part("expected.grad.").items():
        error = (gradients[key] - expected).norm() / expected.norm().clamp(min=1e-12)
        assert error <= GRADIENT, f"gradient of {key}: relative error {error:.3g}"
    names = recorded.about["param_order"]
    assert set(names) == set(gradients)
    norms = torch.stack([gradients[name].norm() for name in names])
    torch.testing.assert_close(norms, recorded.tensors["expected.grad_norms"], rtol=GRADIENT, atol=1e-6)


def test_losses_with_masked_captions_for_all() -> None:
    """What the official code computes: its masks are written into the captions themselves."""
    recorded = RecordedIrra(mask_text_for_all_losses=True)
    losses, _ = recorded.method(recorded.batch, recorded.draws)
    for name, loss in weighted(recorded, losses).items():
        recorded.expect(f"aliased.loss.{name}", loss, LOSS)


@torch.no_grad()
def test_every_tensor_inside_the_step() -> None:
    recorded = RecordedIrra()
    method, batch = recorded.method, recorded.batch
    task = method.word_task(batch.own, recorded.draws)
    encoded = method.encode(batch, task)
    image, caption = F.normalize(encoded.image_BE, dim=1), F.normalize(encoded.caption_BE, dim=1)
    packing = task.text.packing
    whole_text = method.word_task(batch.own, Draws(numbers={"mlm": torch.ones_like(recorded.draws["mlm"])}))

    def padded(packed_ND: Tensor) -> Tensor:
        return packed_ND[packing.grid_SL]

    crossed = method.cross_former(encoded.masked_NE, packing, encoded.image_BPE)
    looked = method.cross_former.look(encoded.masked_NE, packing, encoded.image_BPE)
    clean = replace(whole_text.text, token_id_N=recorded.tensors["inputs.caption_ids"].flatten())
    for name, found in (
        ("image_tokens", encoded.image_BPE),
        ("text_tokens", padded(method.towers.text(clean))),
        ("mlm_text_tokens", padded(encoded.masked_NE)),
        ("image_feat", encoded.image_BE),
        ("text_feat", encoded.caption_BE),
        ("image_feat_norm", image),
        ("text_feat_norm", caption),
        ("sim_logits_t2i", method.logit_scale * caption @ image.T),
        ("sdm_label_dist", identity_distribution(batch.identity_B)),
        ("id_image_logits", method.classifier(encoded.image_BE)),
        ("id_text_logits", method.classifier(encoded.caption_BE)),
        ("cross_attn_out", padded(looked)),
        ("cross_former_out", padded(crossed)),
        ("mlm_logits", padded(method.word_head(crossed))),
    ):
        recorded.expect(name, found, OUTPUT)
    labels = recorded.tensors["draws.mlm_labels"]
    places = labels.nonzero(as_tuple=True)
    expected = recorded.tensors["expected.mlm_logits"][places]
    assert torch.allclose(method.guess(encoded, task), expected, atol=OUTPUT * expected.abs().max().item())
    assert torch.equal(task.word_M, labels[places])


def optimiser_settings(about: dict[str, Any]) -> Optimiser:
    given = about["optimizer_of_step1"]
    return replace(
        cuhk_pedes().optim,
        lr=given["lr"],
        betas=tuple(given["betas"]),
        eps=given["eps"],
        weight_decay=given["weight_decay"],
    )


def test_the_recipe_has_the_official_rate_and_decay_of_every_parameter() -> None:
    recorded = RecordedIrra()
    optim = optimiser_settings(recorded.about)
    found: dict[str, tuple[float, float]] = {}
    for group in make_optimiser(recorded.method, optim).param_groups:
        for name in group["names"]:
            for key in official_parts(name):
                # Query, key and value of one official matrix are three of ours, of one group.
                assert found.setdefault(key, (group["base_lr"], group["weight_decay"])) == (
                    group["base_lr"],
                    group["weight_decay"],
                )
    expected = {
        key: (pytest.approx(official["lr_multiplier"] * optim.lr), official["weight_decay"])
        for key, official in recorded.about["param_groups"].items()
    }
    assert found == expected


def official_parts(name: str) -> list[str]:
    """The official key that our tensor is, or is a third of."""
    thirds = [name]
    for part in ("query", "key", "value"):
        if f".{part}." in name:
            thirds = [name.replace(f".{part}.", f".{other}.") for other in ("query", "key", "value")]
    return list(to_irra(dict.fromkeys(thirds, torch.zeros(1, 1))))


def test_the_recipes_rates_follow_the_official_table() -> None:
    about, _ = recording("irra")
    factors, steps = about["epoch_lr_factors"], 7
    schedule = replace(cuhk_pedes().schedule, epochs=len(factors), warmup_epochs=factors.index(1.0), warmup_share=factors[0])
    for epoch, factor in enumerate(factors):
        for step in (epoch * steps, epoch * steps + steps - 1):
            found = learning_rate(schedule, step=step, steps_per_epoch=steps, base_lr=1.0)
            assert found == pytest.approx(factor, rel=1e-9, abs=1e-12), f"epoch {epoch}"


def test_one_step_of_the_optimiser() -> None:
    recorded = RecordedIrra()
    given = recorded.about["optimizer_of_step1"]
    optimiser = make_optimiser(recorded.method, optimiser_settings(recorded.about))
    losses, _ = recorded.method(recorded.batch, recorded.draws)
    weighted(recorded, losses)["total"].backward()
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * given["schedule_factor"]
    optimiser.step()
    state = to_irra(recorded.method.state_dict())
    before = recorded.part("weights.")
    for key, expected in recorded.part("expected.step1.").items():
        moved = (expected - before[key]).abs().max().item()
        error = (state[key] - expected).abs().max().item()
        assert error <= 2e-7 + GRADIENT * moved, f"{key}: error {error:.3g} of a step of {moved:.3g}"


@torch.no_grad()
def test_features_that_rank() -> None:
    recorded = RecordedIrra()
    images = recorded.method.embed_images(recorded.batch.image_BCHW)
    captions = recorded.method.embed_captions(recorded.batch.own)
    for name, found in (("image", images.feature_IE), ("text", captions.feature_QE)):
        expected = F.normalize(recorded.tensors[f"expected.infer.{name}_feat"], dim=1)
        assert torch.allclose(found, expected, atol=OUTPUT)
