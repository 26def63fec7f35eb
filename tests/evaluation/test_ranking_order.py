import math

import pytest
import torch

from tbps.evaluation.ranking_order import Span, final_order, similarity_order, summed_scores


def test_equal_similarities_keep_gallery_order() -> None:
    order_CG = similarity_order(torch.tensor([[0.5, 0.9, 0.5, 0.9, -0.0, 0.0]]))
    assert order_CG.tolist() == [[1, 3, 0, 2, 4, 5]]


@pytest.mark.parametrize("tail", ["similarity", "index"])
def test_final_order_equals_a_plain_sort_with_ties_everywhere(tail: str) -> None:
    generator = torch.Generator().manual_seed(5)
    similarity_CG = torch.randint(0, 4, (40, 30), generator=generator).float()
    candidate_CK = torch.stack([torch.randperm(30, generator=generator)[:9] for _ in range(40)])
    score_CK = torch.randint(-2, 2, (40, 9), generator=generator).float()
    order_CG = final_order(similarity_CG, candidate_CK, score_CK, tail=tail)  # type: ignore[arg-type]
    for row in range(40):
        score = dict(zip(candidate_CK[row].tolist(), score_CK[row].tolist(), strict=True))
        similarity = similarity_CG[row].tolist()
        head = sorted(score, key=lambda image: (-score[image], -similarity[image], image))
        rest = [image for image in range(30) if image not in score]
        if tail == "similarity":
            rest.sort(key=lambda image: (-similarity[image], image))
        assert order_CG[row].tolist() == head + rest


def test_all_candidates_leave_no_tail() -> None:
    order_CG = final_order(
        torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[2, 1, 0]]), torch.tensor([[0.0, 5.0, 1.0]]), tail="similarity"
    )
    assert order_CG.tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("weight", [0.0, 0.002, 3.0])
def test_sums_order_by_matching_and_similarity_each_brought_to_0_to_1(weight: float) -> None:
    generator = torch.Generator().manual_seed(5)
    similarity_CG, score_CK = torch.randn(6, 12, generator=generator), 40 * torch.randn(6, 5, generator=generator) + 7
    candidate_CK = similarity_CG.topk(5).indices
    similarity_CK = similarity_CG.gather(1, candidate_CK)
    found_CK = summed_scores(
        score_CK,
        similarity_CK,
        of_scores=Span.of(score_CK),
        of_similarities=Span.join([Span.of(similarity_CG[:3]), Span.of(similarity_CG[3:])]),
        similarity_weight=weight,
    )
    least, largest = min(min(row) for row in score_CK.tolist()), max(max(row) for row in score_CK.tolist())
    nearest, farthest = float(similarity_CG.max()), float(similarity_CG.min())
    for row in range(6):
        for place in range(5):
            matching = (float(score_CK[row, place]) - least) / (largest - least)
            similarity = (float(similarity_CK[row, place]) - farthest) / (nearest - farthest)
            assert found_CK[row, place].item() == pytest.approx(matching + weight * similarity, abs=1e-6)


def test_equal_scores_leave_the_order_to_similarity() -> None:
    score_CK, similarity_CK = torch.full((1, 3), 7.0), torch.tensor([[0.1, 0.3, 0.2]])
    spans = {"of_scores": Span.of(score_CK), "of_similarities": Span(least=0.0, largest=1.0)}
    assert summed_scores(score_CK, similarity_CK, similarity_weight=1.0, **spans).tolist() == similarity_CK.tolist()


def test_a_matching_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 values of matching score are not a number"):
        final_order(torch.zeros(1, 3), torch.tensor([[0, 1]]), torch.tensor([[0.0, math.nan]]), tail="index")
