"""The synthetic world in all formats, through doctor, folder, shards and evaluation."""

from pathlib import Path

import numpy as np
import pytest
from tiny_folder import make_data

from tbps.config.data import Benchmark
from tbps.data.dataset_doctor import examine
from tbps.data.layouts import LAYOUTS
from tbps.data.pairs import EvaluationSet, open_pairs
from tbps.data.shard_writer import write_shards
from tbps.synthetic.world import write_world

PRETRAINED: tuple[Benchmark, ...] = ("luperson-mllm", "webperson", "synth-pedes", "ham-pedes")


@pytest.mark.parametrize("benchmark", ["cuhk-pedes", "icfg-pedes", "rstpreid", "mals", "coco", *PRETRAINED, "pairs"])
def test_world_is_read_from_folder_and_shards(tmp_path: Path, benchmark: Benchmark) -> None:
    folder, shards = tmp_path / "folder", tmp_path / "shards"
    write_world(
        folder, benchmark=benchmark, num_identities=24, seed=3, workers=1, image_px=(96, 32), split_share=(0.25, 0.25)
    )
    report = examine(folder, benchmark, decode=True, workers=1)
    assert report.usable and not report.official, report.text()
    assert {split.name for split in report.splits} == set(LAYOUTS[benchmark].splits)
    write_shards(folder, benchmark, shards)
    for split in LAYOUTS[benchmark].splits:
        left, right = (open_pairs(make_data(root, benchmark), split) for root in (folder, shards))
        assert len(left) == len(right) > 0
        for index in range(len(left)):
            assert left.key(index) == right.key(index) and left.caption(index) == right.caption(index)
            assert left.image_bytes(index) == right.image_bytes(index)
        evaluation = EvaluationSet(right)
        assert np.array_equal(evaluation.query_identity_Q, evaluation.gallery_identity_G[evaluation.query_image_Q])
        assert set(evaluation.gallery_identity_G) == set(range(evaluation.gallery_identity_G.max() + 1))
