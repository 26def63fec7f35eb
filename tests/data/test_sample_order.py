import numpy as np
import pytest

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
    order = BatchOrder(50, seed=0, batch_pairs=24, group_pairs=4)
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
        BatchOrder(50, seed=0, batch_pairs=24, group_pairs=4).indices(0, rank=0, world_size=4)
    with pytest.raises(ValueError, match=r"batch_pairs is 10, expected a multiple of group_pairs \(4\)"):
        BatchOrder(50, seed=0, batch_pairs=10, group_pairs=4)
    with pytest.raises(ValueError, match="the training split has 0 pairs"):
        PairOrder(0, seed=0)
