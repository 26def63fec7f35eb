from __future__ import annotations

import pytest
import torch

from tbps.objectives.bidirectional_attention import Attention, Combination, backward_attention, patch_weights

CHOICES: list[tuple[Attention, Combination]] = [
    ("both", "product"),
    ("both", "sum"),
    ("forward", "product"),
    ("backward", "product"),
]


def naive_weights(forward: list[float], backward: list[float], attention: str, combination: str) -> list[float]:
    """Eq. 7 for one phrase, patch by patch."""

    def normalise(values: list[float]) -> list[float]:
        return [value / sum(values) if sum(values) else 1 / len(values) for value in values]

    gains = normalise([max(0.0, value) for value in backward])
    looks = normalise(forward)
    if attention == "forward":
        return looks
    if attention == "backward":
        return gains
    if combination == "sum":
        return [(look + gain) / 2 for look, gain in zip(looks, gains)]
    return normalise([look * gain for look, gain in zip(looks, gains)])


@pytest.mark.parametrize(("attention", "combination"), CHOICES)
def test_weights_equal_a_naive_loop(attention: Attention, combination: Combination) -> None:
    generator = torch.Generator().manual_seed(0)
    forward = torch.rand(2, 3, 5, generator=generator, dtype=torch.float64)
    backward = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    found = patch_weights(forward, backward, attention=attention, combination=combination)
    for image in range(2):
        for phrase in range(3):
            rows = forward[image, phrase].tolist(), backward[image, phrase].tolist()
            assert found[image, phrase].tolist() == pytest.approx(naive_weights(*rows, attention, combination))


@pytest.mark.parametrize(("attention", "combination"), CHOICES)
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_weights_add_up_to_one_at_any_scale(attention: Attention, combination: Combination, scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    forward, backward = torch.rand(2, 2, 7, generator=generator), torch.randn(2, 2, 7, generator=generator)
    plain = patch_weights(forward, backward, attention=attention, combination=combination)
    found = patch_weights(forward * scale, backward * scale, attention=attention, combination=combination)
    assert (found >= 0).all() and torch.allclose(found.sum(-1), torch.ones(2, 2))
    assert torch.allclose(found, plain, atol=1e-6)


def test_where_no_patch_would_help_forward_attention_is_left() -> None:
    forward, nothing = torch.tensor([[[0.5, 0.25, 0.25]]]), torch.tensor([[[-1.0, 0.0, -3.0]]])
    assert torch.allclose(patch_weights(forward, nothing, attention="both", combination="product"), forward)
    alone = patch_weights(forward, nothing, attention="backward", combination="product")
    assert torch.allclose(alone, torch.full((1, 1, 3), 1 / 3))
    # All attention on the image's [CLS], which is no patch
    none = patch_weights(torch.zeros(1, 1, 3), nothing, attention="both", combination="product")
    assert torch.allclose(none, torch.full((1, 1, 3), 1 / 3))


@pytest.mark.parametrize("combination", ["product", "sum"])
def test_gradients_of_the_weights(combination: Combination) -> None:
    generator = torch.Generator().manual_seed(2)
    forward = torch.rand(2, 2, 4, generator=generator, dtype=torch.float64).requires_grad_()
    backward = torch.randn(2, 2, 4, generator=generator, dtype=torch.float64)
    torch.autograd.gradcheck(lambda f: patch_weights(f, backward, attention="both", combination=combination), (forward,))


def test_the_one_patch_that_helps_has_all_the_weight_whatever_forward_attention_is() -> None:
    forward = torch.tensor([[[0.2, 0.3, 0.5]]], requires_grad=True)
    weight = patch_weights(forward, torch.tensor([[[-1.0, 2.0, -1.0]]]), attention="both", combination="product")
    weight[..., 1].sum().backward()
    assert weight.tolist() == [[[0, 1, 0]]] and forward.grad is not None and not forward.grad.any()


def test_zero_attention_has_finite_gradients() -> None:
    forward = torch.zeros(1, 2, 3, requires_grad=True)
    patch_weights(forward, torch.randn(1, 2, 3), attention="both", combination="product").square().sum().backward()
    assert forward.grad is not None and forward.grad.isfinite().all()


def test_backward_attention_is_the_derivative_to_the_attention() -> None:
    """o_h = sum_j A_hj v_hj and any score of it: ds / dA_hj by autograd, mean over heads."""
    generator = torch.Generator().manual_seed(3)
    attention = torch.rand(2, 3, 4, 5, generator=generator).softmax(-1).requires_grad_()
    value = torch.randn(2, 3, 5, 6, generator=generator)
    context = attention @ value
    score = (context.tanh() * torch.randn(2, 3, 4, 6, generator=generator)).sum()
    to_attention, to_context = torch.autograd.grad(score, (attention, context))
    assert torch.allclose(backward_attention(to_context, value), to_attention.mean(1), atol=1e-6)
