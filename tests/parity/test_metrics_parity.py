"""Metrics against numbers printed by the official code of RaSa, MARS, ALBEF, IRRA and TBPS-CLIP."""

import math
import re

import pytest
import torch
from recordings import recording, settings

from tbps.evaluation.direction import rank_direction
from tbps.evaluation.metrics import Metrics, rank_k, ranking_metrics, ranking_scores, score_queries, summarise
from tbps.evaluation.ranking_order import Rule, Span, Tail, final_order, similarity_order, summed_scores
from tbps.evaluation.ranks import Ranks

PERCENT = 1e-3
DEPTHS = settings("rerank_A").get("settings", {}).get("k", {})
"""For each system, how many candidates are re-ranked."""
RERANKED = [(system, k) for system in DEPTHS if system != "albef" for k in DEPTHS[system]]


def assert_metrics(found: Metrics, expected: dict[str, float]) -> None:
    """RaSa's mAP is NaN where a query has no match; ours leaves such a query out."""
    names = {"r1": "rank_1", "r5": "rank_5", "r10": "rank_10", "mAP": "mAP", "mINP": "mINP"}
    compared = [ours for theirs, ours in names.items() if theirs in expected]
    assert {"rank_1", "rank_5", "rank_10", "mAP"} <= set(compared)
    for theirs, ours in names.items():
        if theirs in expected and not math.isnan(expected[theirs]):
            assert getattr(found, ours) == pytest.approx(expected[theirs], abs=PERCENT), ours


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_random_matrix_of_rasa_and_irra(direction: str) -> None:
    facts, tensors = recording("metrics_A")
    similarity = tensors["inputs.similarity"]
    query, gallery = tensors["inputs.query_pids"], tensors["inputs.gallery_pids"]
    if direction == "i2t":
        similarity, query, gallery = similarity.T, gallery, query
    assert torch.equal(similarity_order(similarity), tensors[f"expected.{direction}.order"])
    scores = ranking_scores(similarity, query, gallery)
    for ours, theirs in (
        (scores.average_precision_Q, "ap_per_query_percent"),
        (scores.inverse_negative_penalty_Q, "inp_per_query_percent"),
    ):
        expected = tensors[f"expected.{direction}.{theirs}"]
        torch.testing.assert_close(ours.float(), expected, atol=1e-4, rtol=0, equal_nan=True)
    cmc = [rank_k(scores, k) for k in range(1, 11)]
    assert cmc == pytest.approx(tensors[f"expected.{direction}.cmc_1_to_10"].tolist(), abs=PERCENT)
    # IRRA's code stops where a query has no match, and a recording of such queries has no numbers of it.
    codes = [code for code in ("rasa", "irra") if f"{direction}.{code}" in facts["metrics"]]
    assert codes
    for code in codes:
        assert_metrics(summarise(scores), facts["metrics"][f"{direction}.{code}"])


def test_random_matrix_of_irra_and_tbps_clip() -> None:
    _, tensors = recording("retrieval_metrics")
    similarity = tensors["inputs.similarity"]
    query, gallery = tensors["inputs.query_ids"], tensors["inputs.gallery_ids"]
    assert torch.equal(similarity_order(similarity), tensors["expected.ranking"])
    both = {
        "expected.irra": ranking_metrics(similarity, query, gallery),
        "expected.irra.i2t": ranking_metrics(similarity.T, gallery, query),
    }
    for name, found in both.items():
        cmc = tensors[f"{name}.cmc_1_to_10"]
        expected = {"r1": cmc[0].item(), "r5": cmc[4].item(), "r10": cmc[9].item()}
        expected |= {metric: tensors[f"{name}.{metric}"].item() for metric in ("mAP", "mINP")}
        assert_metrics(found, expected)
    r1, r5, r10, mean_ap = tensors["expected.tbps.r1_r5_r10_mAP"].tolist()
    assert_metrics(both["expected.irra"], {"r1": r1, "r5": r5, "r10": r10, "mAP": mean_ap})


@pytest.mark.parametrize(("system", "k"), RERANKED)
@pytest.mark.parametrize(("tail", "rule"), [("similarity", "coarse_similarity"), ("index", "ascending_index")])
def test_reranking_under_both_tail_rules(system: str, k: int, tail: Tail, rule: str) -> None:
    facts, tensors = recording("rerank_A")
    query, gallery = tensors["inputs.query_pids"], tensors["inputs.gallery_pids"]
    similarity = tensors[f"expected.{system}.sims_matrix"]
    prefix = f"expected.{system}.k{k}"
    candidate, score = tensors[f"{prefix}.topk_idx"], tensors[f"{prefix}.itm_scores"]
    assert torch.equal(similarity_order(similarity)[:, :k], candidate)
    order = final_order(similarity, candidate, score, tail=tail)
    assert torch.equal(order[:, :k], tensors[f"{prefix}.reference_order"][:, :k])
    found = summarise(score_queries(order, query, gallery))
    assert_metrics(found, facts["metrics"][system][f"k{k}.unscored_by_{rule}"])
    assert_metrics(found, facts["metrics"][system][f"k{k}.unscored_by_{rule}.irra"])
    bounds = facts["metrics"][system][f"k{k}.bounds_over_all_tie_orders"]
    assert bounds["mAP_min"] <= found.mAP <= bounds["mAP_max"]


@pytest.mark.parametrize("system", [system for system in DEPTHS if system != "albef"])
def test_without_reranking(system: str) -> None:
    facts, tensors = recording("rerank_A")
    similarity = tensors[f"expected.{system}.sims_matrix"]
    found = ranking_metrics(similarity, tensors["inputs.query_pids"], tensors["inputs.gallery_pids"])
    assert_metrics(found, facts["metrics"][system]["coarse.irra"])


@pytest.mark.parametrize("k", DEPTHS.get("albef", []))
@pytest.mark.parametrize("tail", ["similarity", "index"])
def test_albef_reranks_both_directions_with_the_single_image_of_a_caption_as_its_match(tail: Tail, k: int) -> None:
    facts, tensors = recording("rerank_A")
    expected = facts["metrics"]["albef"][f"k{k}"]
    # ALBEF knows no identities: a caption's only match is its image, so the image's number stands for the identity.
    similarity = tensors["expected.albef.sims_matrix_t2i"]
    image_of_caption, image = tensors["inputs.text_to_image"], torch.arange(similarity.shape[1])
    for prefix, matrix, scores, query, gallery in (
        ("img", similarity, tensors[f"expected.albef.k{k}.score_matrix_t2i"], image_of_caption, image),
        ("txt", similarity.T, tensors[f"expected.albef.k{k}.score_matrix_i2t"], image, image_of_caption),
    ):
        candidate = similarity_order(matrix)[:, :k]
        assert torch.equal((scores > -100).sum(dim=1), torch.full((len(matrix),), k))
        order = final_order(matrix, candidate, scores.gather(1, candidate), tail=tail)
        found = summarise(score_queries(order, query, gallery))
        for name, value in (("r1", found.rank_1), ("r5", found.rank_5), ("r10", found.rank_10)):
            assert value == pytest.approx(expected[f"{prefix}_{name}"], abs=PERCENT), f"{prefix}_{name}"


def test_the_sum_of_matching_and_similarity_as_aptm_makes_it_on_one_process() -> None:
    facts, tensors = recording("aptm_rerank")
    similarity, query, gallery = (tensors[name] for name in ("expected.sims_t2i", "inputs.q_pids", "inputs.g_pids"))
    candidate, matching = tensors["expected.topk_idx"], tensors["expected.itm_topk"]
    weight = float(re.findall(r"M \+ ([\d.]+)\*S", facts["semantics"]["fusion_world1"])[0])
    summed = summed_scores(
        matching,
        similarity.gather(1, candidate),
        of_scores=Span.of(matching),
        of_similarities=Span.of(similarity),
        similarity_weight=weight,
    )
    expected = tensors["expected.scores_world1"]
    torch.testing.assert_close(summed, expected.gather(1, candidate), atol=1e-6, rtol=0)
    # Unit vectors whose products are the recorded similarities: rows of the gallery are axes.
    found = rank_direction(
        similarity,
        torch.eye(len(gallery)),
        query,
        gallery,
        ranks=Ranks.current(),
        num_candidates=facts["k_test"],
        rule=Rule(score="sum", similarity_weight=weight),
        match=lambda image_QK: matching.gather(1, _places(candidate, image_QK)),
    )
    assert torch.equal(found.shown.gallery_AT, similarity_order(expected)[:, :10])
    names = ("r1", "r5", "r10", "mAP", "mINP")
    assert_metrics(found.final, dict(zip(names, tensors["expected.metrics_world1"].tolist(), strict=True)))


def _places(table_QK: torch.Tensor, value_QK: torch.Tensor) -> torch.Tensor:
    """Where in its row of the table each value stands."""
    return (value_QK[:, :, None] == table_QK[:, None, :]).int().argmax(dim=2)
