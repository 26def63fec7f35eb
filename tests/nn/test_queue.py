"""The queue: order, wrap-around, batches longer than it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tbps.nn.queue import EMPTY, FeatureQueue


def rows(first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features whose values are their identity, so that a place tells what lies there."""
    identity = torch.arange(first, last)
    return identity[:, None].float().expand(-1, 2), -identity[:, None].float().expand(-1, 2), identity


def stored(queue: FeatureQueue) -> list[int]:
    identities = queue.identity_K.tolist()
    for place, identity in enumerate(identities):
        if identity != EMPTY:
            assert queue.image_KE[place].tolist() == [identity, identity]
            assert queue.caption_KE[place].tolist() == [-identity, -identity]
    return identities


def test_a_fresh_queue_holds_unit_rows_of_nobody() -> None:
    queue = FeatureQueue(num_pairs=7, width=5)
    assert torch.allclose(queue.image_KE.norm(dim=1), torch.ones(7))
    assert torch.allclose(queue.caption_KE.norm(dim=1), torch.ones(7))
    assert not torch.equal(queue.image_KE, queue.caption_KE)
    assert queue.identity_K.tolist() == [-100] * 7


def test_order_and_wrap_around() -> None:
    queue = FeatureQueue(num_pairs=5, width=2)
    queue.push(*rows(1, 4))
    assert stored(queue) == [1, 2, 3, EMPTY, EMPTY]
    queue.push(*rows(4, 8))
    assert stored(queue) == [6, 7, 3, 4, 5]
    assert queue.pointer.item() == 2


@pytest.mark.parametrize("length", [5, 6, 10, 13])
def test_a_batch_longer_than_the_queue_leaves_its_last_pairs(length: int) -> None:
    queue, one_by_one = FeatureQueue(num_pairs=5, width=2), FeatureQueue(num_pairs=5, width=2)
    for other in (queue, one_by_one):
        other.push(*rows(100, 102))
    queue.push(*rows(1, 1 + length))
    for identity in range(1, 1 + length):
        one_by_one.push(*rows(identity, identity + 1))
    assert stored(queue) == stored(one_by_one)
    assert queue.pointer.item() == one_by_one.pointer.item()


def test_two_pushes_equal_one() -> None:
    parts, whole = FeatureQueue(num_pairs=5, width=2), FeatureQueue(num_pairs=5, width=2)
    parts.push(*rows(1, 3))
    parts.push(*rows(3, 8))
    whole.push(*rows(1, 8))
    assert stored(parts) == stored(whole)


def test_features_of_half_precision_are_kept_in_float32() -> None:
    queue = FeatureQueue(num_pairs=3, width=2)
    image, caption, identity = rows(1, 3)
    queue.push(image.bfloat16(), caption.bfloat16(), identity)
    assert queue.image_KE.dtype == torch.float32
    assert stored(queue) == [1, 2, EMPTY]


def test_the_queue_travels_with_the_weights() -> None:
    queue, restored = FeatureQueue(num_pairs=5, width=2), FeatureQueue(num_pairs=5, width=2)
    queue.push(*rows(1, 4))
    restored.load_state_dict(queue.state_dict())
    restored.push(*rows(4, 5))
    assert stored(restored) == [1, 2, 3, 4, EMPTY]
