"""AGA against RaSa given the masks and captions that a naive implementation of the paper makes; its ablations; edges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_methods import AGA, BERT, RASA, build, gradients, make_step, total_loss, with_chosen_words
from torch import Tensor

from tbps.config.methods.aga import Aga, AgaWeights
from tbps.data.batch import Batch, Draws
from tbps.methods.albef.rasa_step import RasaStep
from tbps.nn.packing import lay_out
from tbps.text.token_batch import Captions

LAYERS = replace(BERT, layers=5, fusion_layer=3)
NUMBERS = {"masked_ratio", "vacuous_share"}
# A softmax this sharp masks some words surely, others hardly ever: errors show in the masks.
DEEP = replace(AGA, bert=LAYERS, attention_temperature=0.01, p_tem=0.0)


def rasa_like(method: Any, config: Aga) -> Any:
    rasa = build(replace(RASA, bert=config.bert))
    rasa.load_state_dict(method.state_dict())
    return rasa


def class_attention(method: Any, ids_L: Tensor, config: Aga) -> Tensor:
    """Eq. 7 for one caption alone, from whole maps of the momentum encoder."""
    text = method.momentum_encoder.text_encoder
    packing = lay_out([len(ids_L)]).to(torch.device("cpu"))
    x_LD = text.embed(ids_L, packing)
    averaged, layers = torch.zeros(len(ids_L)), []
    for layer in text.layers[: text.fusion_layer]:
        query, key, _ = layer.self_attention.qkv(x_LD).view(len(ids_L), 3, 2, -1).unbind(1)
        maps = [(query[:, head] @ key[:, head].T / math.sqrt(query.shape[-1])).softmax(-1) for head in range(2)]
        layers.append((maps[0][0] + maps[1][0]) / 2)
        averaged = config.beta * averaged + (1 - config.beta) * layers[-1]
        x_LD = layer(x_LD, packing, None)
    return {"ema": averaged, "mean": sum(layers, start=torch.zeros(())) / len(layers), "last": layers[-1]}[
        config.aggregation
    ]


@torch.no_grad()
def naive_masks(method: Any, batch: Batch, draws: Draws, config: Aga) -> Tensor:
    """Eq. 8 and 9, word by word."""
    select = torch.zeros_like(batch.own.token_ids_BL, dtype=torch.bool)
    for row, length in enumerate(batch.own.lengths):
        attention = class_attention(method, batch.own.token_ids_BL[row, :length], config)
        powers = [math.exp(value / config.attention_temperature) for value in attention[1:].tolist()]
        for place, power in enumerate(powers, start=1):
            probability = config.alpha_1 + config.alpha_2 * len(powers) * power / sum(powers)
            select[row, place] = draws["masked"][row, 0, place] < probability
    return select


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-6), name


def assert_same_gradients(method: Any, losses: dict[str, Tensor], other: Any, expected: dict[str, Tensor]) -> None:
    total_loss(method, losses).backward()
    total_loss(other, expected).backward()
    for name, gradient in gradients(other).items():
        assert torch.allclose(gradients(method)[name], gradient, atol=1e-5), name


@pytest.mark.parametrize(
    "config",
    [
        DEEP,
        replace(DEEP, aggregation="mean"),
        replace(DEEP, aggregation="last"),
        replace(DEEP, beta=0.5, alpha_1=-0.05, alpha_2=0.4),
    ],
    ids=["ema", "mean", "last", "other numbers"],
)
def test_attention_masks_equal_a_naive_implementation(config: Aga) -> None:
    method = build(config)
    batch, draws = make_step(config, longest=20)
    select = naive_masks(method, batch, draws, config)
    assert not torch.equal(select, RasaStep(method, method.tasks, batch, draws).mlm_mask().select_BL)
    rasa = rasa_like(method, config)
    (losses, numbers), (expected, _) = method(batch, draws), rasa(batch, with_chosen_words(draws, select))
    assert_same(losses, expected)
    assert_same_gradients(method, losses, rasa, expected)
    words = [length - 1 for length in batch.own.lengths]
    assert batch.own.vacuous_BL is not None
    ratios, shares = [], []
    for rows in (slice(0, 4), slice(4, 8)):
        ratios.append(select[rows].sum().item() / sum(words[rows]))
        shares.append((select & batch.own.vacuous_BL)[rows].sum().item() / select[rows].sum().item())
    assert numbers["masked_ratio"].item() == pytest.approx(sum(ratios) / 2)
    assert numbers["vacuous_share"].item() == pytest.approx(sum(shares) / 2)


def test_a_share_of_masked_words_is_kept_in_every_caption() -> None:
    method = build(replace(DEEP, masked_share=0.15))
    batch, _ = make_step(replace(DEEP, masked_share=0.15), longest=20)
    text = method.read_captions(batch, np.zeros(0, dtype=np.int64))
    words = torch.tensor(batch.own.lengths) - 1
    assert torch.allclose(text.probability.wait().sum(1) / words, torch.tensor(0.15), atol=1e-6)


def test_random_masking_without_enrichment_is_rasa() -> None:
    config = replace(AGA, masking="random", p_tem=0.0)
    method = build(config)
    rasa = rasa_like(method, config)
    batch, draws = make_step(config)
    (losses, _), (expected, _) = method(batch, draws), rasa(batch, draws)
    for name, value in expected.items():
        assert torch.equal(losses[name], value), name
    assert_same_gradients(method, losses, rasa, expected)


def test_picked_masks_vacuous_words_alone() -> None:
    method = build(replace(AGA, masking="picked", p_tem=0.0))
    batch, draws = make_step(replace(AGA, masking="picked", p_tem=0.0), longest=40)
    _, numbers = method(batch, draws)
    assert numbers["vacuous_share"] == 1 and 0.05 < numbers["masked_ratio"] < 0.3
    batch.own.vacuous_BL = torch.zeros_like(batch.own.token_ids_BL, dtype=torch.bool)
    losses, numbers = method(batch, draws)
    assert losses["mlm"] == numbers["masked_ratio"] == numbers["vacuous_share"] == 0


# -- enrichment ----------------------------------------------------------------------------------------------------------


def naive_enrichment(batch: Batch, draws: Draws, words: Any, config: Aga) -> Captions:
    """Eq. 10 and 11: the paired captions with other words where MLM has masked the own one."""
    ids = batch.paired.token_ids_BL.clone()
    for number, (row, place) in enumerate(zip(*words.chosen, strict=True)):
        if batch.replaced_B[row] or draws["enriched"][row, 0] >= config.p_tem:
            continue
        values = words.momentum_logit_MV[number].tolist()
        best = [word for word in range(BERT.vocabulary_size) if word not in (0, BERT.cls_id, BERT.mask_id)]
        best = sorted(best, key=lambda word: -values[word])[: config.candidates]
        best = [word for word in best if word != batch.own.token_ids_BL[row, place]]
        weights = [math.exp(values[word]) for word in best]
        bounds = torch.tensor(weights).cumsum(0) / sum(weights)
        ids[row, place] = best[int((bounds <= draws["other_word"][row, 0, place]).sum())]
    return replace(batch.paired, token_ids_BL=ids)


@pytest.mark.parametrize(("p_tem", "candidates"), [(1.0, 5), (0.5, 3)])
def test_enriched_captions_are_the_online_view_of_contrast_and_matching(p_tem: float, candidates: int) -> None:
    config = replace(AGA, masking="random", p_tem=p_tem, candidates=candidates)
    method = build(config)
    rasa = rasa_like(method, config)
    batch, draws = make_step(config, longest=20)
    step = RasaStep(rasa, rasa.tasks, batch, draws)
    momentum, momentum_token_BPD = rasa.past.features(batch, step.pack())
    words = step.word_task(step.mlm_mask(), momentum_token_BPD)
    enriched = replace(batch, paired=naive_enrichment(batch, draws, words, config))
    changed = (enriched.paired.token_ids_BL != batch.paired.token_ids_BL).any(1)
    assert changed.any() and not changed[batch.replaced_B.bool()].any()
    assert p_tem == 1.0 or not changed[~batch.replaced_B.bool()].all()
    step = RasaStep(rasa, rasa.tasks, enriched, draws)
    online = rasa.encode_online(enriched, step.pack())
    cl, pending = step.contrast(online, momentum)
    matched = step.match(online, words, pending)
    expected = {"cl": cl} | step.matching_losses(matched) | step.word_losses(words, matched)
    losses, _ = method(batch, draws)
    assert_same(losses, expected)
    assert_same_gradients(method, losses, rasa, expected)
    plain, _ = rasa(batch, draws)
    for name in ("cl", "pitm", "prd"):
        assert losses[name].item() != pytest.approx(plain[name].item(), abs=1e-5), name


# -- configurations and edges --------------------------------------------------------------------------------------------

ABLATIONS: dict[str, Aga] = {
    "AGA": AGA,
    "baseline, no MLM": replace(AGA, weights=AgaWeights(mlm=0), masking="random", p_tem=0.0),
    "no words at all": replace(AGA, weights=AgaWeights(mlm=0, mrtd=0), p_tem=0.0),
    "picked": replace(AGA, masking="picked", p_tem=0.0),
    "random": replace(AGA, masking="random", p_tem=0.0),
    "AGM": replace(AGA, p_tem=0.0),
    "TEM": replace(AGA, masking="random"),
    "mean": replace(AGA, aggregation="mean"),
    "last": replace(AGA, aggregation="last"),
    "beta 0.99": replace(AGA, beta=0.99),
    "k 3": replace(AGA, candidates=3),
    "alpha_1 -0.05": replace(AGA, alpha_1=-0.05),
}


@pytest.mark.parametrize("config", ABLATIONS.values(), ids=ABLATIONS)
def test_every_ablation_trains_every_parameter(config: Aga) -> None:
    method = build(config)
    batch, draws = make_step(config, longest=50)
    losses, numbers = method(batch, draws)
    words = bool(config.weights.mlm or config.weights.mrtd)
    assert set(losses) == {"cl", "pitm", "prd", *(("mlm", "mrtd") if words else ())}
    assert set(numbers) == (NUMBERS if words else set()) and not any(value.requires_grad for value in numbers.values())
    total_loss(method, losses).backward()
    for name, gradient in gradients(method).items():
        assert gradient.isfinite().all(), name
    method.after_step()


@pytest.mark.parametrize(
    "ids",
    [[BERT.cls_id, 9], [BERT.cls_id, *[9] * 11], [BERT.cls_id, 1]],
    ids=["one word", "one word twelve times", "unknown"],
)
@pytest.mark.parametrize("masking", ["attention", "random", "picked"])
def test_captions_at_the_edge(ids: list[int], masking: Any) -> None:
    method = build(replace(AGA, masking=masking, p_tem=1.0))
    batch, draws = make_step(replace(AGA, masking=masking, p_tem=1.0), longest=12)
    rows = torch.zeros(8, draws["words"].shape[2], dtype=torch.int64)
    rows[:, : len(ids)] = torch.tensor(ids)
    captions = Captions(token_ids_BL=rows, lengths=(len(ids),) * 8, chunk_id_BL=torch.zeros_like(rows))
    captions.vacuous_BL = captions.token_ids_BL > BERT.mask_id  # only vacuous words, or none
    draws["masked"].zero_()  # everything that may be masked is
    losses, numbers = method(replace(batch, own=captions, paired=captions), draws)
    total_loss(method, losses).backward()
    assert all(value.isfinite() for value in [*losses.values(), *numbers.values()])
    assert all(gradient.isfinite().all() for gradient in gradients(method).values())


def test_nothing_masked_enriches_nothing() -> None:
    method = build(replace(AGA, p_tem=1.0, alpha_1=0.0, alpha_2=0.0))
    batch, draws = make_step(replace(AGA, p_tem=1.0, alpha_1=0.0, alpha_2=0.0))
    losses, numbers = method(batch, draws)
    assert losses["mlm"] == numbers["masked_ratio"] == numbers["vacuous_share"] == 0
    rasa = rasa_like(method, AGA)
    assert torch.allclose(losses["cl"], rasa(batch, draws)[0]["cl"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padding": "official"}, "method.padding is 'official', expected 'packed': no official code of AGA is public"),
        ({"beta": 1.0}, "method.beta is 1.0, expected at least 0 and below 1"),
        ({"attention_temperature": 0.0}, "method.attention_temperature is 0.0, expected more than 0"),
        ({"p_tem": 1.5}, "method.p_tem is 1.5, expected 0 to 1"),
        ({"candidates": 1}, "method.candidates is 1, expected at least 2: the original may be one of them"),
        ({"weights": AgaWeights(mlm=0, mrtd=0)}, "method.p_tem is 0.3, expected 0 where .* give one of them a weight"),
    ],
)
def test_wrong_numbers_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Aga(**changes)
