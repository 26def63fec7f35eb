"""Several data sets as one: whose turn it is, which pair that is, and what it is called."""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_folder import NEEDS, make_data, make_encoder, write_folder

from tbps.config.data import Data
from tbps.data.fields import FIELDS, try_fields
from tbps.data.loader import make_loader
from tbps.data.mixture import (
    MixedPairs,
    announce_mixture,
    first_pairs,
    make_order,
    open_training_pairs,
    without_signatures,
)
from tbps.data.pairs import open_pairs
from tbps.data.sample_order import BatchOrder, MixtureOrder, PairOrder, Share
from tbps.data.shard_writer import write_shards

SHARES = (Share(name="mals", num_pairs=13, weight=3), Share(name="coco", num_pairs=50, weight=1))


def test_every_window_holds_the_weights_exactly() -> None:
    order = MixtureOrder(SHARES, seed=1)
    assert (order.window_pairs, order.num_pairs) == (4, 63)
    windows = [[order.at(position)[1] < 13 for position in range(first, first + 4)] for first in range(0, 4000, 4)]
    assert {sum(window) for window in windows} == {3}
    where = Counter(window.index(False) for window in windows)
    assert all(200 < where[place] < 300 for place in range(4)), "the one of four comes anywhere"


def test_each_data_set_comes_in_its_own_order_and_epochs() -> None:
    order = MixtureOrder(SHARES, seed=1)
    stream = [order.at(position) for position in range(400)]
    own = [(epoch, pair) for epoch, pair in stream if pair < 13]
    other = [(epoch, pair - 13) for epoch, pair in stream if pair >= 13]
    assert own == [PairOrder(13, seed=1, name="mals").at(place) for place in range(300)]
    assert other == [PairOrder(50, seed=1, name="coco").at(place) for place in range(100)]
    assert sorted(own[:13]) == [(0, pair) for pair in range(13)] and max(epoch for epoch, _ in own) == 23
    assert sorted(other[50:]) == [(1, pair) for pair in range(50)]
    assert [order.at(position) for position in reversed(range(400))] == stream[::-1]


def test_two_data_sets_of_one_size_are_not_shuffled_alike_and_the_order_is_pinned() -> None:
    twins = MixtureOrder([Share(name=name, num_pairs=20, weight=1) for name in "ab"], seed=3)
    stream = [twins.at(position)[1] for position in range(40)]
    assert [pair for pair in stream if pair < 20] != [pair - 20 for pair in stream if pair >= 20]
    assert [MixtureOrder(SHARES, seed=42).at(place) for place in range(96, 104)] == PINNED


PINNED: list[tuple[int, int]] = [(5, 7), (5, 11), (0, 45), (5, 9), (5, 2), (0, 36), (5, 3), (5, 8)]
"""A change of these numbers would change every mixture that is resumed under a newer version."""


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_share_the_mixture_in_order(world_size: int) -> None:
    order = BatchOrder(MixtureOrder(SHARES, seed=0), batch_pairs=32, group_pairs=4)
    for step in (0, 1, 1_000_000):
        whole = order.indices(step)
        parts = [order.indices(step, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert [pair for part in parts for pair in part] == whole
        assert sum(pair < 13 for _, pair in whole) == 24
    assert order.epoch(63) == 32


def write_two(root: Path, **changes: Any) -> Data:
    """CUHK-PEDES and MALS, two to one."""
    write_folder(root / "cuhk", "cuhk-pedes")
    write_folder(root / "mals", "mals")
    values = {
        "sources": ("cuhk-pedes:2", "mals:1"),
        "roots": (f"mals={root / 'mals'}",),
        "cache": str(root / "cache/shards"),
    }
    return make_data(root / "cuhk", **{**values, **changes})


def opened(data: Data) -> MixedPairs:
    found = open_training_pairs(data)
    assert isinstance(found, MixedPairs)
    return found


def test_every_pair_is_that_of_its_data_set_under_numbers_of_its_own(tmp_path: Path) -> None:
    data = write_two(tmp_path)
    mixed = opened(data)
    parts = {
        "cuhk-pedes": open_pairs(data.alone("cuhk-pedes", data.root)),
        "mals": open_pairs(data.alone("mals", str(tmp_path / "mals"))),
    }
    assert len(mixed) == sum(map(len, parts.values())) == 20 + 12
    index = 0
    for name, pairs in parts.items():
        for own in range(len(pairs)):
            assert mixed.key(index) == f"{name}/{pairs.key(own)}"
            assert mixed.caption(index) == pairs.caption(own) and mixed.image_bytes(index) == pairs.image_bytes(own)
            assert [mixed.key(one) for one in mixed.siblings(index)] == [
                f"{name}/{pairs.key(one)}" for one in pairs.siblings(own)
            ]
            index += 1
    assert [mixed.identity(one) for one in range(32)] == mixed.identity_N.tolist()
    assert [mixed.image(one) for one in range(32)] == mixed.image_N.tolist()
    assert not set(mixed.identity_N[:20].tolist()) & set(mixed.identity_N[20:].tolist())
    assert sorted(set(mixed.identity_N.tolist())) == list(range(mixed.num_identities)) == list(range(5 + 12))
    assert sorted(set(mixed.image_N.tolist())) == list(range(mixed.num_images)) == list(range(10 + 12))
    with pytest.raises(IndexError):
        mixed.key(32)


def test_shards_make_the_same_mixture(tmp_path: Path) -> None:
    data = write_two(tmp_path)
    write_shards(tmp_path / "mals", "mals", tmp_path / "shards")
    folders, packed = (
        opened(data),
        pickle.loads(pickle.dumps(opened(write_two(tmp_path, roots=(f"mals={tmp_path / 'shards'}",))))),
    )
    for index in range(len(folders)):
        assert packed.key(index) == folders.key(index) and packed.image_bytes(index) == folders.image_bytes(index)
        assert packed.identity(index) == folders.identity(index) and np.array_equal(
            packed.attributes(index), folders.attributes(index)
        )
    orders = [make_order(source, seed=9) for source in (folders, packed)]
    assert [orders[0].at(place) for place in range(99)] == [orders[1].at(place) for place in range(99)]


def test_attributes_of_a_data_set_without_any_are_unknown_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = opened(write_two(tmp_path))
    assert mixed.attributes(0).tolist() == [-1] * 27 and set(mixed.attributes(25).tolist()) == {0, 1, -1}
    caplog.clear()
    with caplog.at_level(logging.INFO):
        announce_mixture(mixed, attributes=True)
    assert caplog.messages[:3] == [
        f"source cuhk-pedes at {tmp_path}/cuhk: 20 pairs of 10 images, 5 identities; 2 of every 3 training pairs, so an"
        " epoch goes through it 1.07 times",
        f"source mals at {tmp_path}/mals: 12 pairs of 12 images, 12 identities; 1 of every 3 training pairs, so an"
        " epoch goes through it 0.89 times",
        "an epoch is 32 pairs, as many as all sources have together",
    ]
    assert caplog.messages[3] == "attributes are unknown for all pairs of cuhk-pedes, which annotates none"
    write_folder(tmp_path / "icfg", "icfg-pedes")
    neither = opened(
        write_two(tmp_path, sources=("cuhk-pedes:1", "icfg-pedes:1"), roots=(f"icfg-pedes={tmp_path / 'icfg'}",))
    )
    with pytest.raises(ValueError, match="annotates no attributes"):
        try_fields({"attributes": FIELDS["attributes"]}, neither, first_pairs=first_pairs(neither))


def test_a_field_is_looked_for_in_every_data_set(tmp_path: Path) -> None:
    mixed = opened(write_two(tmp_path))
    assert first_pairs(mixed) == (0, 20) and first_pairs(mixed.parts[0].pairs) == (0,)
    with pytest.raises(ValueError, match="parsing"):
        mixed.check_parsing("atr")


def test_limit_and_root_that_cannot_be_read_are_of_each(tmp_path: Path) -> None:
    assert [len(part.pairs) for part in opened(write_two(tmp_path, limit_pairs=7)).parts] == [7, 7]
    with pytest.raises(ValueError, match=r"data.sources, mals: data.root .*/nowhere is not a folder; give the folder"):
        open_training_pairs(write_two(tmp_path, roots=(f"mals={tmp_path / 'nowhere'}",)))


def test_places_are_shown_without_signatures(tmp_path: Path) -> None:
    data = write_two(tmp_path, roots=("mals=https://me:secret@host/mals?sig=1",))
    assert without_signatures(data).roots == ("mals=https://host/mals?...",)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_for_any_ranks_and_workers_and_go_on_anywhere(tmp_path: Path, workers: int) -> None:
    data = write_two(tmp_path, workers=workers, batch_pairs=12, group_pairs=3)
    source, encoder = opened(data), make_encoder(tmp_path)

    def batches(first: int, steps: int, ranks: int) -> list[Any]:
        loaders = [
            make_loader(source, encoder, data, NEEDS, seed=5, start_step=first, num_steps=steps, rank=rank, world_size=ranks)
            for rank in range(ranks)
        ]
        return [batch for step in zip(*loaders, strict=True) for batch in step]

    whole = batches(0, 6, 1)
    resumed = [*batches(0, 2, 4), *batches(2, 3, 2), *batches(5, 1, 1)]
    assert [key for batch in resumed for key in batch.keys] == [key for batch in whole for key in batch.keys]
    for name in ("pixels_BCHW", "identity_B", "replaced_B", "flip_BV"):
        found, expected = (torch.cat([getattr(batch, name) for batch in some]) for some in (resumed, whole))
        assert torch.equal(found, expected), name
    for batch in whole:
        assert sum(key.startswith("cuhk-pedes/") for key in batch.keys) == 8
