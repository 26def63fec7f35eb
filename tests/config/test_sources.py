"""What `data.sources` and `data.roots` may say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipes import pretrain_mals
from tbps.config.data import Data
from tbps.config.serialise import run_from_json, to_json
from tbps.recipe_command import read_overrides
from tbps.runs.config_hash import config_hash


def mixed(sources: str, roots: str = "") -> Data:
    """MALS at shards/mals, with these words."""
    return replace(pretrain_mals.mars().data, sources=tuple(sources.split()), roots=tuple(roots.split()))


def test_weights_lose_their_common_factor_and_the_first_of_the_runs_benchmark_lies_at_its_root() -> None:
    found = mixed("coco:2 mals:6 more=mals:4", "more=shards/more coco=data/COCO").mixture
    assert [(one.name, one.benchmark, one.weight, one.root) for one in found] == [
        ("coco", "coco", 1, "data/COCO"),
        ("mals", "mals", 3, "shards/mals"),
        ("more", "mals", 2, "shards/more"),
    ]
    assert mixed("").mixture == () and mixed("").trained_on == ("mals",)
    assert mixed("mals:3 coco:1", "coco=x").trained_on == ("mals", "coco")


@pytest.mark.parametrize(
    ("sources", "roots", "sentence"),
    [
        ("mals:3,coco:1", "", "data.sources holds 'mals:3,coco:1', expected BENCHMARK:WEIGHT such as mals:3"),
        ("mals coco:1", "", "data.sources holds 'mals', expected BENCHMARK:WEIGHT"),
        ("mals:0.5 coco:1", "", "data.sources holds 'mals:0.5', expected BENCHMARK:WEIGHT"),
        ("mals:0 coco:1", "", "data.sources holds 'mals:0', expected a weight of 1 to 1000 after the colon"),
        ("mals:1001 coco:1", "", "expected a weight of 1 to 1000"),
        ("malz:3 coco:1", "", "data.sources holds 'malz:3', expected one of cuhk-pedes, "),
        ("mals:3 mals:1", "", "data.sources names mals twice, expected names that differ"),
        ("mals:3", "", "data.sources names mals alone, expected two data sets or more"),
        ("coco:3 cuhk-pedes:1", "", "data.benchmark is mals, which validation reads, and data.sources are coco:3 cuhk"),
        ("mals:3 coco:1", "", "data.roots has no root of coco, expected coco=ROOT; add it"),
        ("mals:3 coco:1", "coco=a coco=b", "data.roots names coco twice"),
        ("mals:3 coco:1", "coco=a mals=b", "data.roots holds 'mals=b', expected NAME=ROOT of a source that does not lie at"),
        ("mals:3 coco:1", "coco", "data.roots holds 'coco', expected NAME=ROOT"),
        ("", "coco=a", "data.roots holds 'coco=a', expected NAME=ROOT of a source that does not lie at data.root (there is"),
    ],
)
def test_bad_words_are_one_sentence(sources: str, roots: str, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        mixed(sources, roots)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_data_without_captions_are_refused_in_a_mixture_too() -> None:
    with pytest.raises(ValueError, match=r"data\.sources hold pa-100k, which tells attributes alone, and the method reads"):
        replace(pretrain_mals.mars(), data=mixed("mals:1 pa-100k:1", "pa-100k=data/PA-100K"))


def test_words_of_a_command_become_the_run_and_go_through_its_record() -> None:
    words = ["--data.sources", "mals:3", "coco:1", "--data.roots", "coco=~/COCO", "--data.root", "shards/mals"]
    run = read_overrides(pretrain_mals.mars, words, program="x")
    assert [source.weight for source in run.data.mixture] == [3, 1]
    assert run_from_json(to_json(run)) == run
    elsewhere = replace(run, data=replace(run.data, roots=("coco=other",)))
    other = replace(run, data=replace(run.data, sources=("mals:2", "coco:1")))
    assert config_hash(elsewhere) == config_hash(run) != config_hash(other), "where it lies is not what it computes"
    with pytest.raises(ValueError, match=r"data.roots, coco, is '~nobody-here/x', and ~nobody-here is no user"):
        replace(run, data=replace(run.data, roots=("coco=~nobody-here/x",)))
