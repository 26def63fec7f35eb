from itertools import permutations

import pytest
import torch

from tbps.evaluation.chance import chance
from tbps.evaluation.metrics import score_queries, summarise


@pytest.mark.parametrize("relevant", [1, 2, 3, 6])
def test_chance_is_the_mean_over_every_order(relevant: int) -> None:
    gallery_G = torch.tensor([1] * relevant + [0] * (6 - relevant))
    order_CG = torch.tensor(list(permutations(range(6))))
    every = summarise(score_queries(order_CG, torch.ones(len(order_CG), dtype=torch.int64), gallery_G))
    expected = chance([relevant], 6)
    for name in ("rank_1", "rank_5", "rank_10", "mAP", "mINP"):
        assert getattr(expected, name) == pytest.approx(getattr(every, name), abs=1e-9), name


def test_queries_without_a_match_lower_rank_k_but_not_mean_ap() -> None:
    with_missing, without = chance([2, 0], 40), chance([2], 40)
    assert with_missing.rank_1 == pytest.approx(without.rank_1 / 2) == pytest.approx(2.5)
    assert with_missing.mAP == pytest.approx(without.mAP)
    assert (with_missing.num_queries, with_missing.num_without_match) == (2, 1)


def test_rank_1_is_the_mean_share_of_relevant_entries_in_a_large_gallery() -> None:
    counts = torch.randint(1, 30, (500,), generator=torch.Generator().manual_seed(0))
    expected = chance(counts, 19_848)
    assert expected.rank_1 == pytest.approx(100 * float(counts.double().mean()) / 19_848)
    assert 0 < expected.mINP < expected.mAP < expected.rank_10 < 1.1
