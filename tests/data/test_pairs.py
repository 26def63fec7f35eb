from pathlib import Path

import numpy as np
import pytest
from tiny_folder import caption, jpeg_bytes, make_data, write_folder

from tbps.data.identity_index import IdentityIndex
from tbps.data.pairs import EvaluationSet, FolderPairs, open_pairs
from tbps.data.shard_writer import write_shards
from tbps.data.shards import ShardPairs


def test_pairs_of_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, "cuhk-pedes", images_each=3)
    pairs = open_pairs(make_data(tmp_path))
    assert isinstance(pairs, FolderPairs) and len(pairs) == 30
    assert pairs.key(7) == "cam_1/0001_3.jpg#1"
    assert pairs.caption(7) == caption(3, 1)
    assert pairs.image_bytes(7) == pairs.image_bytes(6) == jpeg_bytes(3)
    assert pairs.siblings(7).tolist() == [6, 7, 8, 9, 10, 11]
    assert pairs.identity_N.dtype == np.int64 and pairs.identity_N[7] == 1 and pairs.image_N[7] == 3
    assert len({pairs.key(index) for index in range(30)}) == 30


def test_limit_is_for_training_only(tmp_path: Path) -> None:
    write_folder(tmp_path, "cuhk-pedes")
    data = make_data(tmp_path, limit_pairs=3)
    pairs = open_pairs(data)
    assert len(pairs) == len(pairs.identity_N) == 3 and pairs.siblings(0).tolist() == [0, 1, 2]
    assert len(open_pairs(data, "test")) == 4
    assert len(open_pairs(make_data(tmp_path, limit_pairs=1000))) == 20


def test_evaluation_set(tmp_path: Path) -> None:
    write_folder(tmp_path, "cuhk-pedes", images_each=2)
    evaluation = EvaluationSet(open_pairs(make_data(tmp_path), "train"))
    assert (evaluation.num_gallery, evaluation.num_queries) == (10, 20)
    assert evaluation.gallery_identity_G.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert evaluation.query_image_Q.tolist() == [image for image in range(10) for _ in range(2)]
    assert np.array_equal(evaluation.query_identity_Q, evaluation.gallery_identity_G[evaluation.query_image_Q])
    assert evaluation.gallery_key(3) == "cam_1/0001_3.jpg" and evaluation.query_key(7) == "cam_1/0001_3.jpg#1"
    assert evaluation.gallery_bytes(3) == jpeg_bytes(3) and evaluation.query_caption(7) == caption(3, 1)


def test_identity_index_is_naive_search() -> None:
    identity_N = np.random.default_rng(0).permutation(np.repeat(np.arange(7), [1, 4, 2, 1, 9, 3, 3]))
    index = IdentityIndex(identity_N)
    for identity in range(7):
        assert index.pairs(identity).tolist() == np.flatnonzero(identity_N == identity).tolist()


def test_folder_or_shards(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "cuhk-pedes")
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "shards")
    assert isinstance(open_pairs(make_data(tmp_path / "folder")), FolderPairs)
    assert isinstance(open_pairs(make_data(tmp_path / "shards")), ShardPairs)


def test_bad_root_and_split(tmp_path: Path) -> None:
    write_folder(tmp_path, "cuhk-pedes")
    with pytest.raises(
        ValueError, match=r"data.root is empty, expected the folder of cuhk-pedes or its shards; set --data.root"
    ):
        open_pairs(make_data(""))
    with pytest.raises(ValueError, match=r"data.root ftp://x/y has an unknown scheme, expected a folder or http://"):
        open_pairs(make_data("ftp://x/y"))
    with pytest.raises(ValueError, match="has no split 'dev': it has train, test; choose one of them"):
        open_pairs(make_data(tmp_path), "dev")


def test_missing_image_is_named(tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    pairs = open_pairs(make_data(tmp_path))
    (tmp_path / "imgs" / rows[0]["file_path"]).unlink()
    with pytest.raises(
        ValueError, match=r'^pair cam_0/0000_0.jpg#1: image cam_0/0000_0.jpg is not below .*"tbps data doctor --all"'
    ):
        pairs.image_bytes(1)
