import functools
import hashlib
import itertools
import random

import numpy as np
import pytest

from tbps.data.loader import MicroBatchSampler
from tbps.data.sample_order import BatchOrder, PairOrder, permutation


@pytest.mark.parametrize("num_pairs", [1, 2, 7, 64, 1000])
def test_every_epoch_holds_every_pair_once(num_pairs: int) -> None:
    # Blocks of 8 in windows of 3 blocks: 1000 pairs make 42 windows, the last block is not full.
    order = PairOrder(num_pairs, seed=1, block_pairs=8, window_blocks=3)
    epochs = [[order.at(position) for position in range(e * num_pairs, (e + 1) * num_pairs)] for e in range(3)]
    for number, epoch in enumerate(epochs):
        assert {e for e, _ in epoch} == {number}
        assert sorted(pair for _, pair in epoch) == list(range(num_pairs))
    if num_pairs > 6:
        assert len({tuple(pair for _, pair in epoch) for epoch in epochs}) == 3


def test_a_window_reads_few_blocks_and_mixes_them() -> None:
    order = PairOrder(1000, seed=1, block_pairs=10, window_blocks=5)
    windows = [{order.at(position)[1] // 10 for position in range(first, first + 50)} for first in range(0, 1000, 50)]
    assert all(len(blocks) == 5 for blocks in windows)
    assert sum(max(blocks) - min(blocks) > 20 for blocks in windows) > 15
    first = [order.at(position)[1] // 10 for position in range(50)]
    assert len(set(first[:10])) > 2


def test_seed_and_epoch_change_the_order() -> None:
    def pairs(seed: int, epoch: int) -> list[int]:
        order = PairOrder(100, seed=seed)
        return [order.at(epoch * 100 + place)[1] for place in range(100)]

    assert pairs(1, 0) == pairs(1, 0)
    assert len({tuple(pairs(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_access_is_random() -> None:
    order = PairOrder(500, seed=3, block_pairs=16, window_blocks=2)
    forward = [order.at(position) for position in range(1500)]
    assert [order.at(position) for position in reversed(range(1500))] == forward[::-1]


def test_permutations_are_uniform() -> None:
    counts = np.zeros((6, 6))
    for seed in range(3000):
        counts[np.arange(6), permutation(6, key=(seed,))] += 1
    # 500 expected in every cell, standard deviation 20.
    assert np.abs(counts - 500).max() < 100


def test_order_is_pinned() -> None:
    """A change of these numbers would change every run that is resumed under a newer version."""
    assert permutation(10, key=(42, 0, "blocks")).tolist() == [9, 7, 0, 1, 3, 8, 2, 5, 4, 6]
    assert PairOrder(68_126, seed=42).at(68_126 * 3 + 5) == (3, 14634)


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_share_the_global_batch_in_order(world_size: int) -> None:
    order = BatchOrder(PairOrder(50, seed=0), batch_pairs=24, group_pairs=4)
    whole = [pair for step in range(5) for pair in order.indices(step)]
    shared = []
    for step in range(5):
        for rank in range(world_size):
            shared += order.indices(step, rank=rank, world_size=world_size)
    assert shared == whole
    assert sorted(pair for epoch, pair in whole if epoch == 1) == list(range(50))
    # Step 2 begins in epoch 0 and ends in epoch 1.
    assert {epoch for epoch, _ in order.indices(2)} == {0, 1}
    assert order.epoch(2) == 48 / 50


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match=r"world size 4 does not divide the 6 groups of a batch .*change one of the three"):
        BatchOrder(PairOrder(50, seed=0), batch_pairs=24, group_pairs=4).indices(0, rank=0, world_size=4)
    with pytest.raises(ValueError, match=r"batch_pairs is 10, expected a multiple of group_pairs \(4\)"):
        BatchOrder(PairOrder(50, seed=0), batch_pairs=10, group_pairs=4)
    with pytest.raises(ValueError, match="the training split has 0 pairs"):
        PairOrder(0, seed=0)


def _of_all_ranks(world_size: int, steps: range, *, num_pairs: int) -> list[tuple[int, int]]:
    """What the processes of a run compute, in the order of the global batch; each has its own order, as in a run."""
    pairs = []
    orders = [
        BatchOrder(PairOrder(num_pairs, seed=5, block_pairs=64, window_blocks=16), batch_pairs=1024, group_pairs=2)
        for _ in range(world_size)
    ]
    when = {"start_step": steps.start, "num_steps": len(steps)}
    samplers = [
        iter(MicroBatchSampler(order=order, rank=rank, world_size=world_size, micro_batch_pairs=2, **when))
        for rank, order in enumerate(orders)
    ]
    for _ in steps:
        for sampler in samplers:
            for micro_batch in itertools.islice(sampler, 512 // world_size):
                pairs += micro_batch.pairs
    return pairs


NUM_PAIRS = 8 * 1024 + 100
"""Nine windows of 16 blocks; the last block and the last batch of an epoch are cut."""


@functools.cache
def _whole_epoch() -> list[tuple[int, int]]:
    return _of_all_ranks(1, range(9), num_pairs=NUM_PAIRS)


@pytest.mark.parametrize("world_size", [1, 8, 64, 512])
def test_any_number_of_processes_computes_the_same_epoch(world_size: int) -> None:
    found = _of_all_ranks(world_size, range(9), num_pairs=NUM_PAIRS)
    digests = [hashlib.sha256(repr(pairs).encode()).hexdigest() for pairs in (found, _whole_epoch())]
    assert digests[0] == digests[1]
    assert sorted(pair for epoch, pair in found if epoch == 0) == list(range(NUM_PAIRS))


@pytest.mark.parametrize("seed", range(3))
def test_a_run_resumed_anywhere_by_any_number_of_processes_sees_each_pair_once(seed: int) -> None:
    chance = random.Random(seed)
    stop, (before, after) = chance.randrange(1, 8), chance.sample((1, 8, 64, 512), 2)
    found = _of_all_ranks(before, range(stop), num_pairs=NUM_PAIRS)
    found += _of_all_ranks(after, range(stop, 9), num_pairs=NUM_PAIRS)
    assert found == _whole_epoch()


def test_the_order_of_a_large_data_set_is_pinned() -> None:
    """As `test_order_is_pinned`: these are the numbers of runs that exist."""
    order = PairOrder(1_510_330, seed=42)
    assert [order.at(position) for position in (0, 1, 1_510_329, 1_510_330)] == [
        (0, 1_384_523),
        (0, 823_978),
        (0, 1_375_783),
        (1, 646_034),
    ]
    assert [PairOrder(100_000_000, seed=42).at(position) for position in (0, 99_999_999)] == [
        (0, 95_240_267),
        (0, 53_724_548),
    ]
