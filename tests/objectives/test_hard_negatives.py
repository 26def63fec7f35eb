"""Hard negatives: their probabilities by a double loop, their draws by counting over a grid of uniform numbers."""

from __future__ import annotations

import math

import pytest
import torch

from tbps.objectives.hard_negatives import draw_negatives, hardest_negatives, negative_weights

IDENTITY = torch.tensor([4, 4, 6, 8, 5, 4, 5, 5])
LAST_BELOW_ONE = 1 - 2**-53


def test_weights_equal_a_double_loop() -> None:
    logit = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    weight, has = negative_weights(logit, IDENTITY)
    for i in range(8):
        start = i // 4 * 4
        others = [j for j in range(4) if IDENTITY[start + j] != IDENTITY[i]]
        total = sum(math.exp(logit[i, j]) for j in others)
        for j in range(4):
            assert weight[i, j].item() == pytest.approx(math.exp(logit[i, j]) / total if j in others else 0.0, rel=1e-5)
    assert has.all()


def test_a_model_that_is_sure_of_its_pairs_still_has_negatives() -> None:
    logit = torch.full((2, 2), -1000.0).fill_diagonal_(1000.0)
    weight, has = negative_weights(logit, torch.tensor([1, 2]))
    assert weight.tolist() == [[0, 1], [1, 0]]
    assert has.tolist() == [True, True]


def test_a_group_of_one_identity_has_no_negative_and_no_nan() -> None:
    weight, has = negative_weights(torch.randn(6, 3), torch.tensor([2, 2, 2, 2, 3, 2]))
    assert has.tolist() == [False, False, False, True, True, True]
    assert torch.equal(weight[:3], torch.zeros(3, 3))
    assert torch.allclose(weight[3:].sum(1), torch.ones(3))
    drawn = draw_negatives(weight, torch.full((6,), 0.7, dtype=torch.float64))
    assert drawn[:3].tolist() == [0, 0, 0]
    assert drawn[3:].tolist()[1] in (3, 5)


def test_draws_follow_the_weights() -> None:
    logit = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)) * 2
    weight, _ = negative_weights(logit, IDENTITY)
    steps = 2000
    counted = torch.zeros(8, 4)
    for step in range(steps):
        drawn = draw_negatives(weight, torch.full((8,), (step + 0.5) / steps, dtype=torch.float64))
        counted[torch.arange(8), drawn - torch.arange(8) // 4 * 4] += 1
    # On an even grid every candidate is met its share of times, up to one step at each of its two edges.
    assert (counted - weight * steps).abs().max() <= 1.0
    assert counted[weight == 0].sum() == 0


def test_a_draw_is_the_first_member_whose_cumulated_weight_exceeds_the_number() -> None:
    weight = torch.tensor([[0.0, 0.25, 0.25, 0.5]]).repeat(6, 1)
    uniform = torch.tensor([0.0, 0.24, 0.25, 0.49, 0.5, LAST_BELOW_ONE], dtype=torch.float64)
    rows = torch.cat([draw_negatives(weight[[i]], uniform[[i]]) for i in range(6)])
    assert rows.tolist() == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("uniform", [LAST_BELOW_ONE, float(torch.tensor(LAST_BELOW_ONE, dtype=torch.float32))])
def test_rounding_never_steps_past_the_last_candidate(uniform: float) -> None:
    # Kept in float32, the last number below 1 becomes 1: without care its draw lands behind the last candidate.
    weight = torch.rand(400, 4, generator=torch.Generator().manual_seed(2))
    weight[:, 3] = 0
    weight[::2, 2] = 0
    drawn = draw_negatives(weight, torch.full((400,), uniform, dtype=torch.float64)) % 4
    assert drawn.tolist() == [1, 2] * 200


def test_the_hardest_negative_is_the_most_similar_pair_of_another_identity() -> None:
    logit = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
    identity = torch.tensor([0, 0, 1, 2, 3, 3, 3, 3])  # nobody in the second group has a negative
    found, has = hardest_negatives(logit, identity)
    expected = [
        max(
            (row // 4 * 4 + other for other in range(4) if identity[row // 4 * 4 + other] != identity[row]),
            key=lambda place, row=row: float(logit[row, place % 4]),
            default=row // 4 * 4,
        )
        for row in range(8)
    ]
    assert found.tolist() == expected and has.tolist() == [True] * 4 + [False] * 4
    assert hardest_negatives(torch.zeros(4, 4), identity[:4])[0].tolist() == [2, 2, 0, 0]


def test_a_floor_under_every_probability() -> None:
    torch.manual_seed(3)
    logit, identity = 5 * torch.randn(6, 3), torch.tensor([0, 0, 1, 2, 2, 2])
    found, has = negative_weights(logit, identity, floor=0.01)
    assert has.tolist() == [True] * 3 + [False] * 3
    for row in range(6):
        powers = logit[row].double().exp()
        for column in range(3):
            other = row // 3 * 3 + column
            expected = 0.0 if identity[other] == identity[row] else float(powers[column] / powers.sum()) + 0.01
            assert found[row, column].item() == pytest.approx(expected, abs=1e-6)
