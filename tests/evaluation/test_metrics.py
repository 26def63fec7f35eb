import math

import pytest
import torch
from torch import Tensor

from tbps.evaluation.metrics import ranking_metrics, ranking_scores, score_queries, summarise


def naive(similarity: list[list[float]], query: list[int], gallery: list[int]) -> dict[str, list[float]]:
    """Plain loops over Python lists: the definition."""
    out: dict[str, list[float]] = {"first": [], "ap": [], "inp": []}
    for row, identity in zip(similarity, query, strict=True):
        order = sorted(range(len(gallery)), key=lambda column: (-row[column], column))
        places = [place for place, column in enumerate(order, start=1) if gallery[column] == identity]
        out["first"].append(places[0] if places else 0)
        out["ap"].append(
            100 * sum(hit / place for hit, place in enumerate(places, start=1)) / len(places) if places else math.nan
        )
        out["inp"].append(100 * len(places) / places[-1] if places else math.nan)
    return out


def tied_problem(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """37 queries, 50 gallery entries, only 7 different similarities; identities 9 and 10 are not in the gallery."""
    generator = torch.Generator().manual_seed(seed)
    similarity_QG = torch.randint(-3, 4, (37, 50), generator=generator).float() / 8
    query_Q = torch.randint(0, 11, (37,), generator=generator)
    gallery_G = torch.randint(0, 9, (50,), generator=generator)
    return similarity_QG, query_Q, gallery_G


@pytest.mark.parametrize("chunk_queries", [1, 8, 256])
def test_every_query_equals_plain_loops_with_ties_and_missing_matches(chunk_queries: int) -> None:
    similarity_QG, query_Q, gallery_G = tied_problem(0)
    expected = naive(similarity_QG.tolist(), query_Q.tolist(), gallery_G.tolist())
    scores = ranking_scores(similarity_QG, query_Q, gallery_G, chunk_queries=chunk_queries)
    assert scores.first_hit_Q.tolist() == expected["first"]
    assert scores.average_precision_Q.tolist() == pytest.approx(expected["ap"], nan_ok=True, abs=1e-9)
    assert scores.inverse_negative_penalty_Q.tolist() == pytest.approx(expected["inp"], nan_ok=True, abs=1e-9)


def test_means_count_queries_without_a_match_as_misses_but_not_in_mean_ap() -> None:
    similarity_QG, query_Q, gallery_G = tied_problem(1)
    expected = naive(similarity_QG.tolist(), query_Q.tolist(), gallery_G.tolist())
    metrics = ranking_metrics(similarity_QG, query_Q, gallery_G)
    missing = sum(first == 0 for first in expected["first"])
    assert missing > 0
    assert metrics.num_without_match == missing
    assert metrics.num_queries == 37
    for k, value in ((1, metrics.rank_1), (5, metrics.rank_5), (10, metrics.rank_10)):
        assert value == pytest.approx(100 * sum(1 <= first <= k for first in expected["first"]) / 37)
    found = [ap for ap in expected["ap"] if not math.isnan(ap)]
    assert metrics.mAP == pytest.approx(sum(found) / len(found))
    found = [inp for inp in expected["inp"] if not math.isnan(inp)]
    assert metrics.mINP == pytest.approx(sum(found) / len(found))


def test_worked_example() -> None:
    scores = score_queries(torch.tensor([[0, 1, 2]]), torch.tensor([7]), torch.tensor([7, 3, 7]))
    metrics = summarise(scores)
    assert (metrics.rank_1, metrics.rank_5, metrics.rank_10) == (100, 100, 100)
    assert metrics.mAP == pytest.approx(250 / 3)
    assert metrics.mINP == pytest.approx(200 / 3)
    assert (metrics.num_queries, metrics.num_without_match) == (1, 0)


def test_result_does_not_depend_on_the_chunk() -> None:
    generator = torch.Generator().manual_seed(3)
    similarity_QG = torch.randn(70, 90, generator=generator)
    query_Q, gallery_G = torch.arange(70) % 9, torch.arange(90) % 9
    whole = ranking_metrics(similarity_QG, query_Q, gallery_G, chunk_queries=1000)
    assert whole == ranking_metrics(similarity_QG, query_Q, gallery_G, chunk_queries=7)


def test_no_match_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the 2 queries has its identity in the gallery, expected at least one"):
        ranking_metrics(torch.zeros(2, 3), torch.tensor([8, 9]), torch.tensor([0, 1, 2]))


def test_a_similarity_that_is_not_a_number_is_refused() -> None:
    similarity_QG = torch.zeros(2, 3)
    similarity_QG[1, 2] = math.nan
    with pytest.raises(ValueError, match="1 of 6 values of similarity are not a number, expected none: the weights"):
        ranking_metrics(similarity_QG, torch.tensor([0, 1]), torch.tensor([0, 1, 2]))
