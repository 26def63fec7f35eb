from __future__ import annotations

import pytest
import torch

from tbps.objectives.fusion_triplet import fusion_triplet_loss


def naive(matched: list[float], image: list[float], caption: list[float], has: list[bool], margin: float) -> float:
    """Eq. 20 for one group."""
    values = [
        max(0.0, margin - positive + other_caption) + max(0.0, margin - positive + other_image)
        for positive, other_image, other_caption, counts in zip(matched, image, caption, has)
        if counts
    ]
    return sum(values) / len(values) if values else 0.0


def test_equals_a_naive_loop_over_groups() -> None:
    score = torch.randn(18, generator=torch.Generator().manual_seed(0))
    has = torch.tensor([True, True, False, True, False, True])
    found = fusion_triplet_loss(score, margin=0.6, has_negative_B=has, group_pairs=3)
    matched, image, caption = (part.tolist() for part in score.chunk(3))
    groups = [naive(matched[g], image[g], caption[g], has[g].tolist(), 0.6) for g in (slice(0, 3), slice(3, 6))]
    assert found.item() == pytest.approx(sum(groups) / 2) and found > 0


def test_a_margin_that_is_kept_costs_nothing() -> None:
    score = torch.tensor([5.0, 5.0, 4.4, 4.3, 4.2, 4.4])
    has = torch.tensor([True, True])
    assert fusion_triplet_loss(score, margin=0.6, has_negative_B=has, group_pairs=2).item() == pytest.approx(0, abs=1e-6)
    assert fusion_triplet_loss(score, margin=0.7, has_negative_B=has, group_pairs=2).item() == pytest.approx(0.1, abs=1e-6)


def test_pairs_without_a_negative_count_for_nothing() -> None:
    score = torch.zeros(6, requires_grad=True)
    loss = fusion_triplet_loss(score, margin=0.6, has_negative_B=torch.tensor([False, False]), group_pairs=2)
    loss.backward()
    assert loss.item() == 0 and score.grad is not None and not score.grad.any()


def test_gradient() -> None:
    score = torch.tensor([1.0, 0.2, 0.9, 0.5, 0.7, -3.0], requires_grad=True)
    fusion_triplet_loss(score, margin=0.6, has_negative_B=torch.tensor([True, True]), group_pairs=2).backward()
    # pair 0: both terms pay; pair 1: the image term alone
    assert score.grad is not None and score.grad.tolist() == pytest.approx([-1.0, -0.5, 0.5, 0.5, 0.5, 0.0])
