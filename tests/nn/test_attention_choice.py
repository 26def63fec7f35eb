"""Which path attention takes on a CPU, and that every choice is the formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from tbps.nn.attention import FEW_KEYS, attention
from tbps.nn.dropout import Site


@pytest.fixture
def precision() -> Iterator[Callable[[str], None]]:
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("choice", ["highest", "medium"])
@pytest.mark.parametrize("keys", [5, FEW_KEYS + 20])
def test_every_path_equals_the_formula(precision: Callable[[str], None], choice: str, keys: int) -> None:
    precision(choice)
    query, key, value = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (7, keys, keys))
    bias = torch.zeros(2, 1, 1, keys)
    bias[0, ..., 3:] = -10_000
    expected = (query @ key.transpose(2, 3) / 8**0.5 + bias).softmax(-1) @ value
    found = attention(query, key, value, bias=bias)
    assert torch.allclose(found, expected, atol=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(found.square().sum(), (query, key, value)),
        torch.autograd.grad(expected.square().sum(), (query, key, value)),
    ):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_the_fused_kernel_runs_where_it_pays(precision: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    precision("highest")
    fused = F.scaled_dot_product_attention
    calls: list[int] = []

    def spy(*arguments: Any, **rest: Any) -> torch.Tensor:
        calls.append(1)
        return fused(*arguments, **rest)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    query, key, value = (torch.randn(1, 2, FEW_KEYS + 1, 8) for _ in range(3))
    attention(query, key, value)
    assert len(calls) == 1
    attention(query, key, value, site=Site(probability=0.1))
    attention(query, key[:, :, 1:], value[:, :, 1:])
    attention(query.bfloat16(), key.bfloat16(), value.bfloat16())
    precision("medium")
    attention(query, key, value)
    assert len(calls) == 1


@pytest.mark.parametrize("ragged", [True, False])
def test_on_a_gpu_shapes_that_never_come_again_are_not_planned(ragged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's kernel is left out for these alone, and for the one call."""
    allowed: list[bool] = []

    def spy(query: torch.Tensor, *_arguments: Any, **_rest: Any) -> torch.Tensor:
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return query

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with FakeTensorMode():
        query = torch.empty(2, 3, 5, 8, device="cuda", dtype=torch.bfloat16)
        attention(query, query, query, ragged=ragged)
    assert allowed == [not ragged] and torch.backends.cuda.cudnn_sdp_enabled()
