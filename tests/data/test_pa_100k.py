"""PA-100K: attributes without captions, from the files to what a method gets; and attributes that do not fit its prompts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_shards import assert_same_pairs
from tiny_folder import NEEDS, jpeg_bytes, make_data

from recipes import aptm, mars
from tbps.config.data import Benchmark
from tbps.config.methods.aptm import Aptm
from tbps.config.needs import Needs
from tbps.config.pa_100k_prompts import pa_100k_prompts
from tbps.data.annotations import read_annotations
from tbps.data.dataset_doctor import examine
from tbps.data.fields import check_prompts
from tbps.data.loader import PairDataset
from tbps.data.pairs import EvaluationSet, open_pairs
from tbps.data.shard_writer import write_shards
from tbps.synthetic.world import write_world
from tbps.text.captions import CaptionEncoder

PA_100K: Benchmark = "pa-100k"
PROMPTS_SHA256 = "a521a7c23ed5eb6d9f35856168db2b7ee6b80195d9b99a8b9c774f47ce57aabb"
"""Of the 52 sentences of the official code, a line each."""


def write(root: Path, rows: object, split: str = "train", *, folder: str = "data/finetune") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / f"PA100K_{split}.json").write_text(json.dumps(rows), encoding="utf-8")


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {"image": f"{number:06d}.jpg", "label": [number % 2] * 13 + [1, 0] * 6 + [1], **changes}


def test_the_sentences_are_the_official_ones() -> None:
    prompts = pa_100k_prompts()
    assert len(prompts) == len(set(prompts)) == 52
    assert hashlib.sha256("\n".join(prompts).encode()).hexdigest() == PROMPTS_SHA256
    assert prompts[:2] == ("the person is a man", "the person is a woman") and prompts[-1] == "the person wears boots"


@pytest.mark.parametrize("folder", ["data/finetune", "."])
def test_an_image_is_a_pair_without_a_caption(tmp_path: Path, folder: str) -> None:
    write(tmp_path, [row(1), row(2)], folder=folder)
    write(tmp_path, [row(3)], "test", folder=folder)
    annotations = read_annotations(tmp_path, PA_100K)
    train = annotations.split("train")
    assert list(annotations.splits) == ["train", "test"] and list(annotations.split("test").image_path) == ["000003.jpg"]
    assert list(train.caption) == ["", ""] and train.image_N.tolist() == [0, 1] and not annotations.persons
    assert train.attribute_IA is not None and train.attribute_IA.tolist() == [row(1)["label"], row(2)["label"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row(1), row(2, label=[1] * 27)],
            r"PA100K_train.json, row 2: 'label' is \[1, .*, expected 26 of 0, 1, -1; correct",
        ),
        ([row(1, label=[2] * 26)], r"row 1: 'label' is \[2, .*, expected 26 of 0, 1, -1"),
        ([row(1, label="1" * 26)], r"row 1: 'label' is '1+', expected 26 of 0, 1, -1"),
        ([{"image": "a.jpg"}], r"row 1: no field 'label', found 'image'"),
        ([{"label": [1] * 26}], r"row 1: no field 'image', found 'label'"),
        ([row(1, image="../a.jpg")], r"row 1: the image path '../a.jpg' leaves the data set's folder"),
        ([], r"pa-100k at \S+ has no row at all"),
        ({}, r"PA100K_train.json holds a dict, expected a list of rows"),
    ],
)
def test_a_wrong_file_gets_one_sentence(tmp_path: Path, rows: object, message: str) -> None:
    write(tmp_path, rows)
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path, PA_100K)


def test_doctor_asks_for_no_captions(tmp_path: Path) -> None:
    write(tmp_path, [row(1), row(2)])
    images = tmp_path / "images/pa100k/release_data"
    images.mkdir(parents=True)
    (images / "000001.jpg").write_bytes(jpeg_bytes(1))
    report = examine(tmp_path, PA_100K)
    assert not report.usable and "ERROR: 1 images missing: 000002.jpg" in report.text()
    (images / "000002.jpg").write_bytes(jpeg_bytes(2))
    report = examine(tmp_path, PA_100K, decode=True)
    assert report.usable and "ERROR" not in report.text() and "caption" not in report.text()
    assert "train: 2 identities, 2 images (published: 80,000)\n" in report.text()


def test_folder_and_shards_are_the_same(tmp_path: Path, encoder: CaptionEncoder) -> None:
    write_world(tmp_path / "folder", benchmark=PA_100K, num_identities=32, seed=3, workers=1, image_px=(48, 24))
    write_shards(tmp_path / "folder", PA_100K, tmp_path / "shards")
    folder, shards = (open_pairs(make_data(tmp_path / place, PA_100K)) for place in ("folder", "shards"))
    assert_same_pairs(folder, shards)
    labels = np.stack([folder.attributes(pair) for pair in range(len(folder))])
    assert np.array_equal(labels, [shards.attributes(pair) for pair in range(len(shards))])
    # One age, one side; a person has at most one bag.
    assert (labels[:, 1:4].sum(1) == 1).all() and (labels[:, 4:7].sum(1) == 1).all() and labels[:, 9:12].sum(1).max() == 1
    assert 0 < labels[:, 0].mean() < 1 and set(np.unique(labels)) == {0, 1}
    needs = replace(NEEDS, weak_positives=False, captions=False, fields=("attributes",))
    loaded = PairDataset(shards, encoder, make_data(tmp_path / "shards", PA_100K), needs, seed=0).load(0, 1)
    assert loaded.fields["attributes"].tolist() == labels[1].tolist()
    with pytest.raises(ValueError, match=r"its caption '' has no word left"):
        PairDataset(shards, encoder, make_data(tmp_path / "shards", PA_100K), replace(needs, captions=True), seed=0).load(
            0, 1
        )
    with pytest.raises(ValueError, match=r"the data have no captions to search with; evaluate on others: --on and --root"):
        EvaluationSet(folder)


def test_runs_that_do_not_fit() -> None:
    run, captioned = aptm.tiny_pa_100k(), mars.tiny()
    assert not run.needs.captions and run.needs.contrast == "group" and run.needs.prompts == pa_100k_prompts()
    with pytest.raises(
        ValueError, match=r"data.benchmark is pa-100k, which tells attributes alone, and the method reads cap"
    ):
        replace(captioned, data=replace(captioned.data, benchmark=PA_100K, weak_positive_probability=0.0))
    with pytest.raises(ValueError, match=r"pa-100k, which has no captions to search with; set --evaluation.test False and"):
        replace(run, evaluation=replace(run.evaluation, test=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": "own"}, r"method.prompts is own and method.own_prompts holds 0 sentences; set prompts to own and"),
        ({"own_prompts": ("a", "b")}, r"method.prompts is mals and method.own_prompts holds 2 sentences"),
        (
            {"prompts": "own", "own_prompts": ("a", "b", "c")},
            r"own_prompts holds 3 sentences, expected two for each attribute",
        ),
        (
            {"prompts": "own", "own_prompts": ("a", "b", "c", " c")},
            r"own_prompts pairs 'c' with ' c', expected two different",
        ),
        ({"prompts": "own", "own_prompts": ("a", " ")}, r"own_prompts pairs 'a' with ' ', expected two different sentences"),
    ],
)
def test_prompts_that_do_not_pair(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Aptm(**changes)


def test_attributes_are_as_many_as_the_prompts_tell_of(tmp_path: Path) -> None:
    write_world(tmp_path, benchmark=PA_100K, num_identities=32, seed=3, workers=1, image_px=(48, 24), parsing=False)
    source = open_pairs(make_data(tmp_path, PA_100K))
    needs = Needs(text=NEEDS.text, fields=("attributes",), prompts=pa_100k_prompts())
    check_prompts(needs, source)
    check_prompts(replace(needs, fields=()), source)
    with pytest.raises(
        ValueError, match=r"the data tell 26 attributes of an image, and the method's prompts pair up to 27, exp"
    ):
        check_prompts(replace(needs, prompts=(*needs.prompts, "tall", "small")), source)
