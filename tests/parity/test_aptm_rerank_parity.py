"""APTM's evaluation from images and captions to metrics, as it is meant and as its code does it on 2 and on 4 processes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from recorded_aptm import load, settings
from recordings import recording
from torch import Tensor

from tbps.evaluation.direction import rank_direction
from tbps.evaluation.metric_names import METRICS
from tbps.evaluation.ranking_order import Rule, Span, least_of_each_share, similarity_order, sums_of_processes
from tbps.evaluation.ranks import Ranks
from tbps.evaluation.rerank import rerank_scores
from tbps.methods.registry import build_method
from tbps.text.token_batch import Captions

OUTPUT, PERCENT = 2e-5, 1e-3


def evaluated() -> tuple[dict[str, Any], dict[str, Tensor], Tensor, Tensor, Tensor]:
    """The recording; features of captions and images; matching scores of all pairs."""
    about, tensors = recording("aptm_rerank")
    given, fine_tuned = about["config"], recording("aptm_finetune")
    config = settings({"config": given, "derived": fine_tuned[0]["derived"]})
    method: Any = build_method(config, image_px=(given["h"], given["w"])).eval()
    load(method, {key.removeprefix("weights."): t for key, t in fine_tuned[1].items() if key.startswith("weights.")})
    ids, real = tensors["inputs.text_ids"], tensors["inputs.text_atts"]
    captions = Captions(token_ids_BL=ids, lengths=tuple(real.sum(1).tolist()), chunk_id_BL=torch.zeros_like(ids))
    images, embedded = method.embed_images(tensors["inputs.images"]), method.embed_captions(captions)
    queries, gallery = len(ids), len(images.feature_IE)
    image_M, caption_M = torch.arange(gallery).repeat(queries), torch.arange(queries).repeat_interleave(gallery)
    scores = rerank_scores(method.matcher(), images.tokens_IPD, captions, embedded.hidden_ND, image_M, caption_M)
    return about, tensors, embedded.feature_QE, images.feature_IE, scores.view(queries, gallery)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=OUTPUT * max(1.0, expected.abs().max().item()), rtol=0)


@torch.no_grad()
def test_similarities_and_matching_scores() -> None:
    _, tensors, captions, images, scores = evaluated()
    close(captions @ images.T, tensors["expected.sims_t2i"])
    close(scores.gather(1, tensors["expected.topk_idx"]), tensors["expected.itm_topk"])


@pytest.mark.parametrize("processes", [1, 2, 4])
@torch.no_grad()
def test_ranking_from_images_and_captions(processes: int) -> None:
    about, tensors, captions, images, scores = evaluated()
    weight = float(re.findall(r"M \+ ([\d.]+)\*S", about["semantics"]["fusion_world1"])[0])
    found = rank_direction(
        captions,
        images,
        tensors["inputs.q_pids"],
        tensors["inputs.g_pids"],
        ranks=Ranks.current(),
        num_candidates=about["k_test"],
        rule=Rule(score="sum", similarity_weight=weight, processes=processes),
        match=lambda image_QK: scores.gather(1, image_QK),
    )
    assert torch.equal(found.shown.gallery_AT, similarity_order(tensors[f"expected.scores_world{processes}"])[:, :10])
    expected = tensors[f"expected.metrics_world{processes}"].tolist()
    names = ("rank_1", "rank_5", "rank_10", "mAP", "mINP")
    assert set(names) == set(METRICS)
    assert [getattr(found.final, name) for name in names] == pytest.approx(expected, abs=PERCENT)


@pytest.mark.parametrize("processes", [2, 4])
def test_scores_on_several_processes(processes: int) -> None:
    _, tensors = recording("aptm_rerank")
    similarity, candidate, matching = (tensors[f"expected.{name}"] for name in ("sims_t2i", "topk_idx", "itm_topk"))
    found = sums_of_processes(
        matching,
        similarity.gather(1, candidate),
        least_C1=least_of_each_share(matching, processes=processes),
        of_similarities=Span.of(similarity),
        similarity_weight=0.002,
        processes=processes,
    )
    expected = tensors[f"expected.scores_world{processes}"].gather(1, candidate)
    torch.testing.assert_close(found + processes - 1, expected, atol=2e-6, rtol=0)
