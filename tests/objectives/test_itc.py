"""Image-text contrast against a double loop written from ALBEF Eq. 1 and 6 and MARS Eq. 8-11."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tbps.nn.queue import FeatureQueue
from tbps.objectives.itc import (
    Features,
    candidate_logits,
    empty_share,
    identity_target,
    momentum_contrast,
    soft_cross_entropy,
)

GROUP_PAIRS = 4
IDENTITY = torch.tensor([7, 7, 3, 9, 3, 5, 7, 5, 1, 1, 1, 1])  # three groups; identities repeat inside and across groups
QUEUE_IDENTITY = torch.tensor([3, 7, -100, 7, 1])


def features(seed: int, *, pairs: int = 12, width: int = 6) -> Features:
    generator = torch.Generator().manual_seed(seed)
    image, caption = F.normalize(torch.randn(2, pairs, width, generator=generator, dtype=torch.float64), dim=-1)
    return Features(image_BE=image, caption_BE=caption)


def filled_queue() -> FeatureQueue:
    stored = features(3, pairs=5)
    queue = FeatureQueue(num_pairs=5, width=6).double()
    queue.image_KE.copy_(stored.image_BE)
    queue.caption_KE.copy_(stored.caption_BE)
    queue.identity_K.copy_(QUEUE_IDENTITY)
    return queue


def naive_contrast(
    row_BE: Tensor,
    key_BE: Tensor,
    twin_BE: Tensor,
    queue_KE: Tensor,
    *,
    temperature: float,
    alpha: float,
    ignore_empty: bool = False,
) -> float:
    total = 0.0
    for i in range(12):
        group = range(i // GROUP_PAIRS * GROUP_PAIRS, (i // GROUP_PAIRS + 1) * GROUP_PAIRS)
        places = [k for k, other in enumerate(QUEUE_IDENTITY) if other != -100 or not ignore_empty]
        keys = [key_BE[j] for j in group] + [queue_KE[k] for k in places]
        same = [
            float(IDENTITY[i] == other) for other in (*(IDENTITY[j] for j in group), *(QUEUE_IDENTITY[k] for k in places))
        ]
        online = [math.exp(float(row_BE[i] @ key) / temperature) for key in keys]
        twin = [math.exp(float(twin_BE[i] @ key) / temperature) for key in keys]
        for j in range(len(keys)):
            target = alpha * twin[j] / sum(twin) + (1 - alpha) * same[j] / sum(same)
            total -= target * math.log(online[j] / sum(online))
    return total / 12


def contrast(
    online: Features, *, temperature: Tensor, alpha: float, intra: bool = True, ignore_empty: bool = False
) -> dict[str, Tensor]:
    return momentum_contrast(
        online,
        features(2),
        identity_B=IDENTITY,
        queue=filled_queue(),
        temperature=temperature,
        alpha=alpha,
        group_pairs=GROUP_PAIRS,
        intra=intra,
        ignore_empty=ignore_empty,
    ).loss


def test_the_example_of_the_docstring() -> None:
    target = identity_target(torch.tensor([0, 0, 1]), torch.tensor([1]), group_pairs=3)
    assert target.tolist() == [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]


def test_candidates_of_a_row_are_its_group_then_the_queue() -> None:
    row, key, queue = torch.randn(6, 3), torch.randn(6, 3), torch.randn(2, 3)
    logit = candidate_logits(row, key, queue, group_pairs=2)
    for i in range(6):
        keys = [key[i // 2 * 2], key[i // 2 * 2 + 1], queue[0], queue[1]]
        assert torch.allclose(logit[i], torch.stack([row[i] @ other for other in keys]))


@pytest.mark.parametrize("ignore_empty", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_every_contrast_equals_a_double_loop(alpha: float, ignore_empty: bool) -> None:
    online, momentum, queue = features(1), features(2), filled_queue()
    temperature = torch.tensor(0.3, dtype=torch.float64)
    found = contrast(online, temperature=temperature, alpha=alpha, ignore_empty=ignore_empty)
    rows = {"i": (online.image_BE, momentum.image_BE), "t": (online.caption_BE, momentum.caption_BE)}
    keys = {"i": (momentum.image_BE, queue.image_KE), "t": (momentum.caption_BE, queue.caption_KE)}
    assert set(found) == {"i2t", "t2i", "i2i", "t2t"}
    for name, value in found.items():
        (row, twin), (key, queued) = rows[name[0]], keys[name[2]]
        expected = naive_contrast(row, key, twin, queued, temperature=0.3, alpha=alpha, ignore_empty=ignore_empty)
        assert value.item() == pytest.approx(expected, rel=1e-6), name


def test_without_intra_only_the_cross_modal_contrasts_are_made() -> None:
    temperature = torch.tensor(0.3, dtype=torch.float64)
    alone = contrast(features(1), temperature=temperature, alpha=0.4, intra=False)
    both = contrast(features(1), temperature=temperature, alpha=0.4)
    assert alone == {"i2t": both["i2t"], "t2i": both["t2i"]}


@pytest.mark.parametrize("ignore_empty", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_gradient(alpha: float, ignore_empty: bool) -> None:
    def total(image: Tensor, caption: Tensor, temperature: Tensor) -> Tensor:
        given = Features(image_BE=image, caption_BE=caption)
        losses = contrast(given, temperature=temperature, alpha=alpha, ignore_empty=ignore_empty)
        return torch.stack([losses["i2t"], 2 * losses["t2i"], 3 * losses["i2i"], 5 * losses["t2t"]]).sum()

    online = features(1)
    inputs = (online.image_BE, online.caption_BE, torch.tensor(0.3, dtype=torch.float64))
    if alpha == 0:
        assert torch.autograd.gradcheck(total, tuple(each.requires_grad_() for each in inputs))
        return
    # The soft targets move with the temperature but carry no gradient: only the features can be checked by differences.
    assert torch.autograd.gradcheck(lambda i, t: total(i, t, inputs[2]), tuple(each.requires_grad_() for each in inputs[:2]))


@pytest.mark.parametrize("temperature", [0.07, 1e-3])
def test_an_ignored_place_is_as_if_it_were_not_there(temperature: float) -> None:
    """In float32, to the last bit of what a queue without that place gives but for the order of a sum; nothing overflows."""
    online = Features(image_BE=features(1).image_BE.float(), caption_BE=features(1).caption_BE.float())
    twin = Features(image_BE=features(2).image_BE.float(), caption_BE=features(2).caption_BE.float())
    full, short = filled_queue().float(), FeatureQueue(num_pairs=4, width=6)
    kept = QUEUE_IDENTITY != -100
    for name in ("image_KE", "caption_KE", "identity_K"):
        getattr(short, name).copy_(getattr(full, name)[kept])
    common = {
        "identity_B": IDENTITY,
        "temperature": torch.tensor(temperature),
        "alpha": 0.4,
        "group_pairs": 4,
        "intra": True,
    }
    found = momentum_contrast(online, twin, queue=full, ignore_empty=True, **common)  # type: ignore[arg-type]
    expected = momentum_contrast(online, twin, queue=short, **common)  # type: ignore[arg-type]
    for name, value in found.loss.items():
        assert value.item() == pytest.approx(expected.loss[name].item(), rel=1e-6), name
        assert not found.soft[name][:, 4 + 2].any(), "no soft target falls on it"
    again = momentum_contrast(online, twin, queue=short, ignore_empty=True, **common)  # type: ignore[arg-type]
    assert again.loss == expected.loss, "once the queue is filled, nothing differs"


def test_the_share_of_empty_places_is_their_softmax() -> None:
    logit = torch.tensor([[0.0, 1.0, 2.0, 0.5], [1.0, 1.0, 1.0, 1.0]])
    rows = [(math.exp(2.0) + math.exp(0.5)) / (1 + math.e + math.exp(2.0) + math.exp(0.5)), 0.5]
    assert empty_share(logit, torch.tensor([-100, -100])).item() == pytest.approx(sum(rows) / 2)
    last = math.exp(0.5) / (1 + math.e + math.exp(2.0) + math.exp(0.5))
    assert empty_share(logit, torch.tensor([3, -100])).item() == pytest.approx((last + 0.25) / 2)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_zero_features_give_the_log_of_the_number_of_candidates(alpha: float) -> None:
    zero = torch.zeros(12, 6, dtype=torch.float64)
    losses = contrast(Features(image_BE=zero, caption_BE=zero), temperature=torch.tensor(0.07), alpha=alpha)
    for value in losses.values():
        assert value.item() == pytest.approx(math.log(GROUP_PAIRS + 5), rel=1e-6)


def test_perfect_features_give_the_entropy_of_the_target() -> None:
    target = identity_target(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2]), group_pairs=4)
    rows, queue = F.one_hot(torch.tensor([0, 0, 1, 1]), 3).double(), F.one_hot(torch.tensor([1, 2]), 3).double()
    logit = candidate_logits(rows, rows, queue, group_pairs=4) / 0.01
    entropy = (2 * math.log(2) + 2 * math.log(3)) / 4
    assert soft_cross_entropy(logit, target).item() == pytest.approx(entropy, rel=1e-6)
