from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import tbps.nn.attention as module
from tbps.nn.attention import FEW_KEYS, attention


@pytest.fixture
def precision():  # type: ignore[no-untyped-def]
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("choice", ["highest", "medium"])
@pytest.mark.parametrize("keys", [5, FEW_KEYS + 20])
@pytest.mark.parametrize("masked", [False, True])
def test_every_path_equals_the_formula(precision, choice: str, keys: int, masked: bool) -> None:  # type: ignore[no-untyped-def]
    precision(choice)
    query, key, value = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (7, keys, keys))
    bias = torch.zeros(2, 1, 1, keys)
    if masked:
        bias[0, ..., 3:] = -10_000
    weight = (query @ key.transpose(2, 3) / 8**0.5 + bias).softmax(-1)
    expected = weight @ value
    found = attention(query, key, value, bias=bias if masked else None)
    assert torch.allclose(found, expected, atol=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(found.square().sum(), (query, key, value)),
        torch.autograd.grad(expected.square().sum(), (query, key, value)),
    ):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_the_fused_kernel_runs_where_it_pays(precision, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    precision("highest")
    fused = F.scaled_dot_product_attention
    calls: list[int] = []

    def spy(*arguments: torch.Tensor, **rest: object) -> torch.Tensor:
        calls.append(1)
        return fused(*arguments, **rest)

    monkeypatch.setattr(module.F, "scaled_dot_product_attention", spy)
    many = [torch.randn(1, 2, FEW_KEYS + 1, 8) for _ in range(3)]
    attention(*many)
    assert len(calls) == 1
    attention(*many, dropout=0.1)
    attention(*(part[:, :, :FEW_KEYS] for part in many))
    attention(*(part.bfloat16() for part in many))
    precision("medium")
    attention(*many)
    assert len(calls) == 1


def test_dropout_of_probabilities_keeps_the_mean() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(64, 4, 8, 16) for _ in range(3))
    dropped = torch.stack([attention(query, key, value, dropout=0.2) for _ in range(50)])
    assert not torch.equal(dropped[0], dropped[1])
    assert (dropped.mean(0) - attention(query, key, value)).abs().mean() < 0.05
