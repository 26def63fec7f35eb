"""Attribute loss: table, chunk vectors and loss together against the nested loops of MARS Eq. 12-15."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from finite_differences import FLOAT32
from numpy.typing import NDArray
from torch import Tensor

from tbps.objectives.attribute import attribute_loss, chunk_table, chunk_vectors

# Three groups of two captions: chunks of several tokens, split chunks, a caption without any, a group without any.
CHUNKS = np.array([[0, 1, 1, 0, 2], [0, 0, 0, 0, 0], [0, 3, 1, 3, 2], [0, 0, 1, 1, 1], [0] * 5, [0] * 5])
CAPTION = np.array([0, 1, 2, 3, 4, 5] * 2 + [1, 0, 3, 2, 5, 4])
HAS_NEGATIVE = np.array([True, True, False, False, True, True])
OMEGA = np.random.default_rng(0).random((6, 3), dtype=np.float32)
HEAD = torch.tensor([[0.4, -1.0, 0.2], [0.8, 0.3, -0.5]], dtype=torch.float64)


def hidden_states() -> Tensor:
    return torch.randn(18, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def loss_of(hidden_RLD: Tensor, chunks: NDArray[np.int64], omega: NDArray[np.float32] | None) -> Tensor:
    table = chunk_table(chunks, CAPTION, has_negative_B=HAS_NEGATIVE, group_pairs=2, chunk_weight_BC=omega)
    rows = torch.from_numpy(table.row_M[:, None] * 5 + table.position_MT)
    vector = chunk_vectors(hidden_RLD.flatten(0, 1), rows, torch.from_numpy(table.present_MT))
    matched = torch.from_numpy((table.row_M < 6).astype(np.int64))
    return attribute_loss(vector @ HEAD.T, matched_M=matched, weight_M=torch.from_numpy(table.weight_M))


def naive(hidden_RLD: Tensor, omega: NDArray[np.float32] | None) -> float:
    groups = []
    for group in range(3):
        row_losses = []
        for kind in range(3):
            for pair in (2 * group, 2 * group + 1):
                row, caption = 6 * kind + pair, CAPTION[6 * kind + pair]
                numbers = sorted(set(CHUNKS[caption].tolist()) - {0})
                if not numbers or (kind > 0 and not HAS_NEGATIVE[pair]):
                    continue
                total = 0.0
                for number in numbers:
                    tokens = [hidden_RLD[row, place] for place in range(5) if CHUNKS[caption, place] == number]
                    unmatched, matched = (HEAD @ (sum(tokens, torch.zeros(3)) / len(tokens))).tolist()
                    value = math.log(math.exp(unmatched) + math.exp(matched)) - (matched if kind == 0 else unmatched)
                    total += value * (1.0 if omega is None else float(omega[caption, number - 1]))
                row_losses.append(total / len(numbers))
        groups.append(sum(row_losses) / len(row_losses) if row_losses else 0.0)
    return sum(groups) / 3


@pytest.mark.parametrize("omega", [None, OMEGA], ids=["uniform", "weighted"])
def test_equals_nested_loops(omega: NDArray[np.float32] | None) -> None:
    found = loss_of(hidden_states(), CHUNKS, omega)
    assert found.item() == pytest.approx(naive(hidden_states(), omega), rel=1e-6)


@pytest.mark.parametrize("omega", [None, OMEGA], ids=["uniform", "weighted"])
def test_gradient(omega: NDArray[np.float32] | None) -> None:
    hidden = hidden_states().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: loss_of(each, CHUNKS, omega), (hidden,), **FLOAT32)


def test_zero_states_give_log_2_in_each_group_with_chunks() -> None:
    assert loss_of(torch.zeros(18, 5, 3, dtype=torch.float64), CHUNKS, None).item() == pytest.approx(math.log(2) * 2 / 3)


def test_no_chunk_in_the_batch_gives_0_with_a_gradient() -> None:
    hidden = hidden_states().requires_grad_()
    found = loss_of(hidden, np.zeros_like(CHUNKS), None)
    assert found.item() == 0
    found.backward()
    assert hidden.grad is not None
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))


def test_a_chunk_vector_is_the_mean_of_its_tokens() -> None:
    hidden = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    vector = chunk_vectors(hidden, torch.tensor([[0, 2], [1, 0]]), torch.tensor([[1.0, 1], [1, 0]]))
    assert vector.tolist() == [[3, 4], [3, 4]]
