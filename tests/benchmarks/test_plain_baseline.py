"""Our step and re-ranking against the plain baseline: equal losses, gradients and scores on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain import PlainStep, plain_momentum, plain_rerank
from recorded_step import Recorded, inputs
from recorded_step import build as recorded_method
from torch import Tensor
from workload import build, image_px, make_batch, make_captions

from tbps.evaluation.rerank import rerank_scores

LENGTHS = (41, 20, 9)


def weighted(method: Any, losses: dict[str, Tensor]) -> Tensor:
    return sum((method.weights[name] * loss for name, loss in losses.items()), start=torch.zeros(()))


def assert_close(found: Tensor, expected: Tensor, what: str, *, tolerance: float = 1e-5) -> None:
    error = (found - expected).abs().max().item()
    bound = tolerance * max(expected.abs().max().item(), 1e-3)
    assert error <= bound, f"{what}: error {error:.3g}, allowed {bound:.3g}"


@pytest.mark.parametrize("name", ["mars", "rasa"])
def test_losses_and_gradients(name: str) -> None:
    method = build(name, quick=True, dropout=0.0).train()
    batch, draws = make_batch(name, LENGTHS, quick=True, replay_words=True)
    draws.recorded |= {"negative_image": torch.tensor([1, 2, 0]), "negative_caption": torch.tensor([2, 0, 1])}
    plain = PlainStep(method)
    expected = plain(batch, draws)
    weighted(method, expected).backward()
    found, _ = method(batch, draws)
    weighted(method, found).backward()
    assert set(found) == set(expected) and len(found) == (7 if name == "mars" else 5)
    for loss, value in found.items():
        assert_close(value, expected[loss], loss)
    gradients = plain.weights.gradients()
    for key, parameter in method.named_parameters():
        assert (parameter.grad is None) == (key not in gradients), key
        if parameter.grad is not None:
            assert_close(parameter.grad, gradients[key], f"gradient of {key}")


@pytest.mark.parametrize("name", ["mars", "rasa"])
def test_the_baseline_reproduces_the_recorded_official_step(name: str) -> None:
    recorded = Recorded(name)
    method: Any = recorded_method(recorded, mlm_soft="vocabulary", padding="packed")
    batch, draws = inputs(recorded)
    method.past.advance()  # the official forward moves the momentum encoder first
    losses = PlainStep(method)(batch, draws)
    for loss in ("cl", "pitm", "prd", "mrtd") + (("attribute",) if name == "mars" else ()):
        assert_close(losses[loss], recorded.tensors[f"expected.loss.{loss}"], loss)
    misread = recorded.about["diagnostics"]["loss_values_of_known_misreadings"]
    expected = misread["mlm_soft_term_normalised_over_vocabulary (dim=-1)"]["mlm"]
    assert losses["mlm"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("name", "max_tokens"), [("mars", 75), ("rasa", 50)])
def test_rerank_scores(name: str, max_tokens: int) -> None:
    method = build(name, quick=True).eval()
    generator = torch.Generator().manual_seed(3)
    tokens_IPD = method.embed_images(torch.randn(6, 3, *image_px(True), generator=generator)).tokens_IPD
    captions = make_captions([7, 30, 41, 12], seed=4, vocabulary_size=1200)
    candidate_QK = torch.stack([torch.randperm(6, generator=generator)[:4] for _ in range(4)])
    expected = plain_rerank(method, tokens_IPD, captions, candidate_QK, max_tokens=max_tokens, rows=[0, 1, 2, 3])
    hidden = method.embed_captions(captions).hidden_ND
    caption_M = torch.arange(4).repeat_interleave(4)
    found = rerank_scores(method.matcher(), tokens_IPD, captions, hidden, candidate_QK.flatten(), caption_M).view(4, 4)
    assert expected.std() > 1e-3
    assert_close(found, expected, "scores", tolerance=1e-4)


def test_momentum() -> None:
    method = build("mars", quick=True)
    with torch.no_grad():
        for parameter in method.online.parameters():
            parameter.add_(torch.randn_like(parameter))
    other = build("mars", quick=True)
    other.load_state_dict(method.state_dict())
    plain_momentum(other.momentum_encoder, other.online, 0.995)
    method.past.advance()
    for found, expected in zip(method.momentum_encoder.parameters(), other.momentum_encoder.parameters()):
        assert_close(found, expected, "momentum_encoder", tolerance=1e-6)
