"""A step of APTM's pretraining and one of its fine-tuning reproduce the recorded numbers of the official code.

Outputs to 2e-5, losses and gradients to 1e-4, in float32, through the code that trains and the converter that users call.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recorded_aptm import REWORDED, RecordedAptm
from torch import Tensor

from tbps.convert.aptm_names import to_aptm
from tbps.methods.albef.aptm_masks import recorded_spans
from tbps.objectives.hard_negatives import negative_weights
from tbps.objectives.sdm import identity_distribution

OUTPUT, LOSS, GRADIENT = 2e-5, 1e-4, 1e-4
RECORDINGS = ("aptm_pretrain", "aptm_finetune")


def official_losses(name: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our losses under the recording's names, and what it makes of them."""
    if name == "aptm_pretrain":
        return {
            "itc": losses["itc"],
            "itm": losses["itm"],
            "mlm": losses["mlm"],
            "attr_itc": losses["attribute_itc"],
            "attr_itm": losses["attribute_itm"],
            "attr_mlm": losses["attribute_mlm"],
            "attr": (losses["attribute_itc"] + losses["attribute_itm"] + losses["attribute_mlm"]) / 3,
        }
    return {
        "itc_plain": losses["itc"],
        "itm_plain": losses["itm"],
        "itc_eda": losses["reworded_itc"],
        "itm_eda": losses["reworded_itm"],
        "itc": losses["itc"] + REWORDED * losses["reworded_itc"],
        "itm": losses["itm"] + REWORDED * losses["reworded_itm"],
        "mlm": losses["mlm"],
    }


def total(recorded: RecordedAptm, losses: dict[str, Tensor]) -> Tensor:
    assert losses.keys() == recorded.method.weights.keys()
    return torch.stack([recorded.method.weights[name] * loss for name, loss in losses.items()]).sum()


@pytest.mark.parametrize("name", RECORDINGS)
def test_losses_and_gradients(name: str) -> None:
    recorded = RecordedAptm(name)
    losses, _ = recorded.method(recorded.batch, recorded.draws)
    whole = total(recorded, losses)
    for key, loss in (official_losses(name, losses) | {"total": whole}).items():
        recorded.expect(f"loss.{key}", loss, LOSS)
    whole.backward()
    parameters = dict(recorded.method.named_parameters())
    assert all(parameter.grad is not None for parameter in parameters.values())
    gradients = to_aptm({key: parameter.grad for key, parameter in parameters.items()})
    for key, expected in recorded.part("expected.grad.").items():
        error = (gradients[key] - expected).norm() / expected.norm().clamp(min=1e-12)
        assert error <= GRADIENT, f"gradient of {key}: relative error {error:.3g}"
    names = recorded.about["param_order"]
    assert set(names) == set(gradients)
    norms = torch.stack([gradients[key].norm() for key in names])
    torch.testing.assert_close(norms, recorded.tensors["expected.grad_norms"], rtol=GRADIENT, atol=2e-6)


@pytest.mark.parametrize("name", RECORDINGS)
@torch.no_grad()
def test_every_tensor_inside_the_step(name: str) -> None:
    recorded = RecordedAptm(name)
    method, batch, tensors = recorded.method, recorded.batch, recorded.tensors
    encoded = method.encode(batch)
    own = encoded.texts["own"]
    i2t, t2i = method._group_logits(batch, encoded.image_BE, own.feature_BE)
    found: dict[str, Any] = {
        "image_embeds": encoded.token_BPD,
        "image_feat": method.online.image_projection(encoded.token_BPD[:, 0]),
        "text_feat": method.online.text_projection(own.hidden_ND.index_select(0, own.captions.packing.first_S)),
        "image_feat_norm": encoded.image_BE,
        "text_feat_norm": own.feature_BE,
        "sim_logits_i2t": i2t,
        "itc_targets": identity_distribution(batch.identity_B),
        "itm_neg_image_weights": negative_weights(t2i, batch.identity_B, floor=1e-5)[0],
        "itm_neg_text_weights": negative_weights(i2t, batch.identity_B, floor=1e-5)[0],
    }
    if name == "aptm_finetune":
        reworded = encoded.texts["reworded"]
        i2t, t2i = method._group_logits(batch, encoded.image_BE, reworded.feature_BE)
        found |= {
            "text_feat_eda_norm": reworded.feature_BE,
            "itm_neg_image_weights_eda": negative_weights(t2i, batch.identity_B, floor=1e-5)[0],
            "itm_neg_text_weights_eda": negative_weights(i2t, batch.identity_B, floor=1e-5)[0],
        }
    else:
        prompts = method.encode_prompts(batch)
        found |= {
            "attr_text_embeds_cls": prompts.hidden_ND.index_select(0, prompts.captions.packing.first_S),
            "attr_text_feat_norm": prompts.feature_BE,
            "attr_sim_logits": encoded.image_BE @ prompts.feature_BE.T / method.temperature,
        }
    for key, value in found.items():
        recorded.expect(key, value, OUTPUT)
    real = tensors["inputs.text_atts"].bool()
    for row, (start, length) in enumerate(zip(own.captions.layout.start_S, batch.own.lengths, strict=True)):
        expected = tensors["expected.text_embeds"][row, real[row]]
        assert (own.hidden_ND[start : start + length] - expected).abs().max() <= OUTPUT * expected.abs().max()


@pytest.mark.parametrize("name", RECORDINGS)
def test_logits_of_matching_and_of_masked_words(name: str) -> None:
    recorded = RecordedAptm(name)
    method, tensors = recorded.method, recorded.tensors
    seen: dict[str, list[Tensor]] = {"itm": [], "word": []}
    method.itm_head.register_forward_hook(lambda *call: seen["itm"].append(call[2]))
    method.online.word_head.register_forward_hook(lambda *call: seen["word"].append(call[2]))
    method(recorded.batch, recorded.draws)
    recorded.expect("itm_logits", seen["itm"][0], OUTPUT)
    spans = recorded_spans(recorded.draws.recorded["mlm_ids"], recorded.draws.recorded["mlm_labels"])
    assert close_words(seen["word"][0], tensors["expected.mlm_logits"], tensors, "masked", spans.row_M.tolist())
    if name == "aptm_finetune":
        recorded.expect("itm_logits_eda", seen["itm"][1], OUTPUT)
        return
    expected = tensors["expected.attr_itm_logits"]
    recorded.expect("attr_itm_logits", seen["itm"][1].view(expected.shape), OUTPUT)
    spans = recorded_spans(recorded.draws.recorded["prompt_ids"], recorded.draws.recorded["prompt_labels"])
    kept = (tensors["draws.attr_mlm_image_idx"] >= 0).nonzero()[:, 0].tolist()
    first = kept[: len(tensors["expected.attr_mlm_logits"])]
    rows = [first.index(row) if row in first else -1 for row in spans.row_M.tolist() if row in kept]
    part = seen["word"][1][torch.tensor(rows) >= 0]
    of_first = {key: tensors[f"draws.attr_masked_{key}"][first] for key in ("pos", "ids")}
    tensors = tensors | {f"draws.attr_masked_{key}": value for key, value in of_first.items()}
    rows = [row for row in rows if row >= 0]
    assert close_words(part, tensors["expected.attr_mlm_logits"], tensors, "attr_masked", rows)


def close_words(found: Tensor, expected: Tensor, tensors: dict[str, Tensor], kind: str, rows: list[int]) -> bool:
    """Our logits are by caption and place, the recorded ones by caption and slot."""
    places, words = tensors[f"draws.{kind}_pos"], tensors[f"draws.{kind}_ids"]
    ours = 0
    for row in range(len(words)):
        slots = (words[row] != -100).nonzero()[:, 0]
        for slot in slots[places[row, slots].argsort()]:
            assert rows[ours] == row
            if (found[ours] - expected[row, slot]).abs().max() > OUTPUT * expected.abs().max():
                return False
            ours += 1
    return ours == len(found)
