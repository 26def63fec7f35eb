"""Means inside groups, then over groups, against loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tbps.objectives.group_mean import group_mean

GROUP = torch.tensor([0, 2, 2, 0, 0, 2, 3])  # group 1 is empty


def naive(value: Tensor, weight: list[float]) -> float:
    means = []
    for group in range(4):
        rows = [row for row in range(7) if GROUP[row] == group]
        total = sum(weight[row] for row in rows)
        means.append(sum(weight[row] * value[row].item() for row in rows) / total if total else 0.0)
    return sum(means) / 4


@pytest.mark.parametrize("weight", [None, [1.0, 0, 1, 0, 1, 1, 0], [0.5, 2, 0.25, 3, 1, 1, 4]])
def test_equals_loops(weight: list[float] | None) -> None:
    value = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = None if weight is None else torch.tensor(weight)
    found = group_mean(value, GROUP, num_groups=4, weight_R=weights)
    assert found.item() == pytest.approx(naive(value, weight or [1.0] * 7), rel=1e-6)


def test_gradient() -> None:
    value = torch.randn(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: group_mean(each, GROUP, num_groups=4), (value,))


def test_no_rows_give_0_with_a_gradient() -> None:
    value = torch.zeros(0, requires_grad=True)
    found = group_mean(value, torch.zeros(0, dtype=torch.int64), num_groups=2)
    assert found.item() == 0
    found.backward()
    assert value.grad is not None


def test_small_groups_count_as_much_as_large_ones() -> None:
    value = torch.tensor([1.0, 1, 1, 5])
    assert group_mean(value, torch.tensor([0, 0, 0, 1]), num_groups=2).item() == 3
