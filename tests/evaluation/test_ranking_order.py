import math

import pytest
import torch

from tbps.evaluation.ranking_order import final_order, similarity_order


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


def test_a_matching_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 values of matching score are not a number"):
        final_order(torch.zeros(1, 3), torch.tensor([[0, 1]]), torch.tensor([[0.0, math.nan]]), tail="index")
