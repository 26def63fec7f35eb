"""Every pair is scored in one call, calls are filled up little, and none is large."""

from __future__ import annotations

import numpy as np
import pytest

from tbps.methods.albef.pair_calls import BASE_WIDTH, PADDED, SIZES, CallSizes, call_sizes, share_out
from tbps.nn.packing import Index


def drawn(images: int, pairs: int) -> tuple[Index, Index]:
    """Images and tokens of pairs, some images asked by far more captions than others."""
    rng = np.random.default_rng(0)
    popularity = rng.exponential(size=images)
    image_M = rng.choice(images, pairs, p=popularity / popularity.sum())
    return image_M, rng.lognormal(np.log(26.5), 0.35, pairs).round().clip(8, 50).astype(np.int64)


def padded_rows(calls: list[Index], image_M: Index, tokens_M: Index) -> int:
    """Caption tokens with the padding that fills an image's up to those of the call's fullest."""
    totals = [np.unique(image_M[pairs], return_inverse=True)[1] for pairs in calls]
    sums = [np.bincount(rows, weights=tokens_M[pairs]) for rows, pairs in zip(totals, calls, strict=True)]
    return int(sum(len(own) * own.max() for own in sums))


@pytest.mark.parametrize(("device", "pairs"), [("cuda", 4000), ("cpu", 400)])
def test_a_block_is_padded_little(device: str, pairs: int) -> None:
    image_M, tokens_M = drawn(16, pairs)
    calls = share_out(image_M, tokens_M, SIZES[device])
    assert sorted(np.concatenate(calls).tolist()) == list(range(pairs))
    assert padded_rows([np.arange(pairs)], image_M, tokens_M) > 2 * tokens_M.sum(), "as one call"
    assert padded_rows(calls, image_M, tokens_M) < 1.3 * tokens_M.sum() and len(calls) <= 8
    for call in calls:
        assert (np.diff(image_M[call]) >= 0).all()
        assert all((np.diff(tokens_M[call][image_M[call] == image]) >= 0).all() for image in set(image_M[call]))


def test_no_call_is_large() -> None:
    sizes = CallSizes(images=12, free_rows=0, most_tokens=300)
    image_M, tokens_M = drawn(12, 400)
    calls = share_out(image_M, tokens_M, sizes)
    assert sorted(np.concatenate(calls).tolist()) == list(range(400))
    sums = [int(tokens_M[pairs].sum()) for pairs in calls]
    assert max(sums) < 300 + 50 and len(calls) < 3 * tokens_M.sum() / 300
    assert max(padded_rows([pairs], image_M, tokens_M) for pairs in calls) < PADDED * 350


def test_few_tokens_are_one_call() -> None:
    image_M, tokens_M = np.array([3, 0, 3, 3]), np.array([9, 5, 4, 30])
    assert [call.tolist() for call in share_out(image_M, tokens_M, SIZES["cpu"])] == [[1, 2, 0, 3]]
    assert [call.tolist() for call in share_out(image_M, tokens_M, CallSizes(images=12, free_rows=0, most_tokens=99))] == [
        [2, 0, 3],
        [1],
    ]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_calls_of_narrow_models_hold_more(device: str) -> None:
    """As many as take no more room; a block of images is a part of the gallery's batch of 64, or several of them."""
    base = SIZES[device]
    assert call_sizes(device, width=BASE_WIDTH) == call_sizes(device, width=1024) == base
    for width in (32, 64, 100, 256, 512):
        sizes = call_sizes(device, width=width)
        factor = sizes.images // base.images
        assert sizes.images % 64 == 0 or 64 % sizes.images == 0
        assert sizes.images * width <= base.images * BASE_WIDTH < 2 * sizes.images * width
        assert (sizes.free_rows, sizes.most_tokens) == (factor * base.free_rows, factor * base.most_tokens)
