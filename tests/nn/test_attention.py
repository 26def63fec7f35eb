"""Attention: both paths, with and without bias, are the formula."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tbps.nn.attention import attention, fused_attention, join_heads, split_heads
from tbps.nn.dropout import Site

# The package attribute of this name is the module; inside it lies the function of the same name.
MODULE = importlib.import_module("tbps.nn.attention")


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, 5, 4, generator=generator)
    key, value = torch.randn(2, 2, 3, 7, 4, generator=generator)
    return query, key, value


def biases() -> dict[str, Tensor | None]:
    hidden = torch.zeros(2, 1, 1, 7)
    hidden[0, ..., 4:] = -10_000
    return {"none": None, "keys": hidden, "any": torch.randn(2, 1, 5, 7)}


@pytest.mark.parametrize("kind", ["none", "keys", "any"])
@pytest.mark.parametrize("few_keys", [0, 96])
def test_both_paths_equal_the_formula(monkeypatch: pytest.MonkeyPatch, few_keys: int, kind: str) -> None:
    monkeypatch.setattr(MODULE, "FEW_KEYS", few_keys)
    fused, fused_calls = F.scaled_dot_product_attention, []

    def counted(*arguments: Any, **options: Any) -> Tensor:
        fused_calls.append(1)
        return fused(*arguments, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    query, key, value = inputs()
    bias = biases()[kind]
    found = attention(query, key, value, bias=bias)
    assert len(fused_calls) == (few_keys == 0)
    for s in range(2):
        for head in range(3):
            logit = query[s, head] @ key[s, head].T / 4**0.5
            if bias is not None:
                logit = logit + bias[s, 0]
            expected = logit.exp() / logit.exp().sum(1, keepdim=True) @ value[s, head]
            assert torch.allclose(found[s, head], expected, atol=1e-5)


def test_gradient() -> None:
    query, key, value = (each[:1, :1].double().requires_grad_() for each in inputs())
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v), (query, key, value))


def test_both_paths_have_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for few_keys in (0, 96):
        monkeypatch.setattr(MODULE, "FEW_KEYS", few_keys)
        parts = [each.requires_grad_() for each in inputs()]
        found.append(torch.autograd.grad(attention(parts[0], parts[1], parts[2]).square().sum(), parts))
    for fused, plain in zip(*found, strict=True):
        assert torch.allclose(fused, plain, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_dropout_falls_on_the_probabilities(fused: bool) -> None:
    attend: Any = partial(fused_attention, bias=None) if fused else attention
    ones = torch.ones(1, 1, 4000, 4)
    # Equal keys and values of 1: a row is (number kept) / 4 / 0.75, on average 1.
    row = attend(ones, ones[:, :, :4], ones[:, :, :4], site=Site(probability=0.25, key=1), group=2)[0, 0, :, 0]
    assert row.mean().item() == pytest.approx(1.0, abs=0.03)
    assert len(row.mul(3).round().unique()) == 5


@pytest.mark.parametrize("fused", [False, True])
def test_dropout_is_that_of_site_and_group_whatever_was_drawn_before(fused: bool) -> None:
    """`fused` is the path of GPUs, where the device's own generator draws."""
    attend: Any = partial(fused_attention, bias=None) if fused else attention
    found = []
    for key, group in ((1, 2), (1, 2), (1, 3), (2, 2)):
        found.append(attend(*inputs(), site=Site(probability=0.5, key=key), group=group))
        torch.rand(3)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2]) and not torch.equal(found[0], found[3])


def test_heads_split_and_join() -> None:
    x = torch.randn(2, 5, 12)
    heads = split_heads(x, 3)
    assert torch.equal(heads[1, 2, 4], x[1, 4, 8:])
    assert torch.equal(join_heads(heads), x)
