"""Searching: sentences and pictures with weights, filters, re-ranking by the files, and what is said of a query."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from indexing import bring_up_to_date, copy_pictures
from small_world import World

from tbps.data.images import decode, resize_exactly
from tbps.finished import load_model
from tbps.search.index import Index
from tbps.search.model import SearchModel
from tbps.search.query import Filters, Part, Query, moment, weighed
from tbps.search.searcher import Searcher

SENTENCE = "A woman in a red coat and black trousers"


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of two cameras, taken a day after another."""
    folder = tmp_path_factory.mktemp("pictures") / "pictures"
    for number, file in enumerate(copy_pictures(world.cuhk_pedes, folder, number=40)):
        camera = folder / f"cam_{number % 2}"
        camera.mkdir(exist_ok=True)
        file.rename(camera / file.name)
        taken = datetime(2024, 1, 1 + number % 20, 12).timestamp()
        os.utime(camera / file.name, (taken, taken))
    return folder


@pytest.fixture(scope="module")
def searcher(folder: Path, model: SearchModel, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    index = tmp_path_factory.mktemp("index") / "index"
    bring_up_to_date(folder, index, model)
    return Searcher(Index.open(index), model)


def feature_of(sentence: str, model: SearchModel) -> np.ndarray:
    return model.embed_sentences([sentence]).embedded.feature_QE[0].numpy()


def all_features(index: Index) -> np.ndarray:
    return np.concatenate([features.astype(np.float32) for _, features in index.blocks()])


def names(searcher: Searcher, query: Query, **options: object) -> list[str]:
    return [hit.picture.name for hit in searcher.search(query, **options).hits]  # type: ignore[arg-type]


def test_hits_are_the_nearest_pictures(searcher: Searcher, model: SearchModel) -> None:
    found = searcher.search(Query.of(SENTENCE), top=10)
    similarity_N = all_features(searcher.index) @ feature_of(SENTENCE, model)
    assert [hit.picture.row for hit in found.hits] == np.argsort(-similarity_N, kind="stable")[:10].tolist()
    assert np.allclose([hit.similarity for hit in found.hits], np.sort(similarity_N)[::-1][:10], atol=1e-6)
    assert (found.num_allowed, found.remarks) == (40, ())
    assert len(searcher.search(Query.of(SENTENCE), top=100).hits) == 40


def test_parts_are_added_and_subtracted_with_their_weights(searcher: Searcher, model: SearchModel, folder: Path) -> None:
    query = Query.of(SENTENCE, plus=("blue shoes:0.5",), minus=("a hat",))
    picture = folder / "cam_0" / "000.jpg"
    query = Query(parts=(*query.parts, Part(picture=picture.read_bytes(), weight=0.25), Part(row=3, weight=-2.0)))
    pixels = resize_exactly(
        decode(picture.read_bytes(), key=""), image_px=model.image_px, interpolation=model.pixels.interpolation
    )
    expected = feature_of(SENTENCE, model) + 0.5 * feature_of("blue shoes", model) - feature_of("a hat", model)
    expected = expected + 0.25 * model.embed_pixels(pixels[None]).feature_IE[0].numpy()
    expected = expected - 2.0 * searcher.index.feature(3).astype(np.float32)
    found, remarks = searcher.embed(query)
    assert np.allclose(found, expected / np.linalg.norm(expected), atol=1e-5) and not remarks
    alone = searcher.search(Query(parts=(Part(picture=picture.read_bytes()),)), top=1).hits[0]
    assert alone.picture.name == "cam_0/000.jpg" and alone.similarity > 0.999
    assert names(searcher, Query(parts=(Part(row=alone.picture.row),)), top=1) == ["cam_0/000.jpg"]


@pytest.mark.parametrize(
    ("text", "sentence", "weight"),
    [
        ("a red coat", "a red coat", 1.0),
        ("a red coat:0.5", "a red coat", 0.5),
        ("a red coat : .25", "a red coat", 0.25),
        ("at 10:30 a man", "at 10:30 a man", 1.0),
        ("coat: red", "coat: red", 1.0),
    ],
)
def test_a_sentence_may_end_in_its_weight(text: str, sentence: str, weight: float) -> None:
    part, away = weighed(text), weighed(text, sign=-1)
    assert (part.sentence, part.weight, away.weight) == (sentence, weight, -weight)


def test_filters_let_only_some_pictures_through(searcher: Searcher) -> None:
    query = Query.of(SENTENCE)
    cam_0 = names(searcher, query, top=40, filters=Filters(camera=("cam_0",)))
    assert len(cam_0) == 20 and all(name.startswith("cam_0/") for name in cam_0)
    assert cam_0 == [name for name in names(searcher, query, top=40) if name.startswith("cam_0/")]
    assert names(searcher, query, top=40, filters=Filters(path="*/00?.jpg", camera=("cam_1",))) == [
        name for name in names(searcher, query, top=40) if name in {f"cam_1/00{odd}.jpg" for odd in (1, 3, 5, 7, 9)}
    ]
    after, before = moment("2024-01-05", name="--after"), moment("2024-01-07T11:00", name="--before")
    some = searcher.search(query, top=40, filters=Filters(after_s=after, before_s=before))
    assert sorted(hit.picture.name[-7:] for hit in some.hits) == ["004.jpg", "005.jpg", "024.jpg", "025.jpg"]
    assert some.num_allowed == 4
    assert names(searcher, query, filters=Filters(path="nothing/*")) == []
    with pytest.raises(ValueError, match="--after is 'yesterday', expected a time such as 2026-11-26 or"):
        moment("yesterday", name="--after")


def test_the_best_are_ordered_by_the_matcher(searcher: Searcher, model: SearchModel, folder: Path) -> None:
    found = searcher.search(Query.of(SENTENCE), top=12, rerank=8)
    plain = searcher.search(Query.of(SENTENCE), top=12)
    assert {hit.picture.row for hit in found.hits[:8]} == {hit.picture.row for hit in plain.hits[:8]}
    assert found.hits[8:] == plain.hits[8:] and not found.remarks
    matcher = model.matcher
    assert matcher is not None
    read = model.embed_sentences([SENTENCE])
    expected = {}
    for hit in plain.hits[:8]:
        pixels_HWC = decode((folder / hit.picture.name).read_bytes(), key="")
        pixels = resize_exactly(pixels_HWC, image_px=model.image_px, interpolation=model.pixels.interpolation)
        tokens_IPD = model.embed_pixels(pixels[None]).tokens_IPD
        assert tokens_IPD is not None
        with torch.no_grad():
            score = matcher.prepare(read.captions, read.embedded.hidden_ND)
            one = score(image_IPD=tokens_IPD, image_M=np.array([0]), caption_M=np.array([0]))
        expected[hit.picture.row] = float(one)
    assert [hit.picture.row for hit in found.hits[:8]] == sorted(expected, key=lambda row: -expected[row])
    assert np.allclose([hit.score for hit in found.hits[:8]], sorted(expected.values(), reverse=True), atol=1e-5)


def test_files_that_changed_are_not_re_ranked_which_is_said(
    searcher: Searcher, model: SearchModel, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "pictures"
    shutil.copytree(folder, copy)
    bring_up_to_date(copy, tmp_path / "index", model)
    own = Searcher(Index.open(tmp_path / "index"), model)
    best = [hit.picture.name for hit in own.search(Query.of(SENTENCE), top=3).hits]
    (copy / best[0]).write_bytes((copy / best[1]).read_bytes())
    (copy / best[1]).unlink()
    found = own.search(Query.of(SENTENCE), top=3, rerank=3)
    assert [hit.picture.name for hit in found.hits] == [best[2], best[0], best[1]]
    assert [hit.score is None for hit in found.hits] == [False, True, True]
    assert found.remarks == (
        f"{best[0]} is not re-ranked: its file has changed since it was indexed; run tbps index again",
        f"{best[1]} is not re-ranked: it cannot be opened (No such file or directory)",
    )
    picture = Query(parts=(Part(row=0),))
    assert own.search(picture, rerank=3).remarks == (
        "nothing is re-ranked, as there is no sentence: pictures are ordered by similarity",
    )


@pytest.fixture(scope="module")
def plain(plain_run: Path) -> SearchModel:
    return load_model(plain_run)


def test_a_method_without_matcher_says_so(folder: Path, plain: SearchModel, model: SearchModel, tmp_path: Path) -> None:
    bring_up_to_date(folder, tmp_path / "index", plain)
    index = Index.open(tmp_path / "index")
    found = Searcher(index, plain).search(Query.of(SENTENCE), rerank=5)
    said = "nothing is re-ranked, as the method scores no pairs of picture and sentence: pictures are ordered by similarity"
    assert found.remarks == (said,) and len(found.hits) == 20
    with pytest.raises(ValueError, match="holds features of weights with sha256"):
        Searcher(index, model)


def test_an_exported_run_searches_the_index_of_its_run(
    searcher: Searcher, model: SearchModel, matching_run: Path, tmp_path: Path
) -> None:
    from tbps.command import main

    assert main(["export", str(matching_run), str(tmp_path / "exported")]) == 0
    exported = Searcher(searcher.index, load_model(tmp_path / "exported"))
    query = Query.of(SENTENCE)
    assert exported.search(query, rerank=8).hits == searcher.search(query, rerank=8).hits


def test_long_and_foreign_sentences_are_searched_and_said(searcher: Searcher, plain: SearchModel) -> None:
    found = searcher.search(Query.of("a red coat " * 3333))
    most = searcher.model.encoder.max_words + 1
    assert len(found.remarks) == 1 and len(found.hits) == 20
    assert found.remarks[0] == (
        f"{most} tokens of the sentence 'a red coat a red coat a red coat a red c'... are read, the most that the run reads;"
        f" {9999 - most + 1} words at its end are not"
    )
    foreign = "\u5973\u4eba\u7a7f\u7740\u7ea2\u8272\u5916\u5957"
    assert "of the word pieces of" in searcher.search(Query.of(foreign)).remarks[0]
    other = replace(searcher.model, encoder=plain.encoder)
    from tbps.search.searcher import unknown_share

    assert unknown_share(other, plain.encoder.encode(foreign, "x")) > 0.5
    assert unknown_share(other, plain.encoder.encode(SENTENCE, "x")) == 0.0
    assert unknown_share(searcher.model, searcher.model.encoder.encode(SENTENCE, "x")) < 0.3


def _cancelling(searcher: Searcher) -> object:
    return searcher.search(Query.of("a coat", minus=("a coat",)))


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (lambda searcher: searcher.search(Query.of("")), "the query is empty, expected a sentence or a picture"),
        (lambda searcher: searcher.search(Query.of("  ")), "a part of the query is empty, expected a sentence or a picture"),
        (lambda searcher: searcher.search(Query.of("?!")), r"the sentence '\?!' has no word, expected at least one"),
        (lambda searcher: searcher.search(Query.of("coat:0")), "weight of a part of the query is 0.0, expected a number"),
        (lambda searcher: searcher.search(Query.of("coat"), top=0), "top is 0 and rerank 0, expected at least 1"),
        (
            lambda searcher: searcher.search(Query(parts=(Part(row=999),))),
            "picture 999 is not in the index, expected",
        ),
        (
            lambda searcher: searcher.search(Query(parts=(Part(picture=b"no picture"),))),
            "the picture to search with cannot be used: its image file",
        ),
        (_cancelling, "the parts of the query cancel each other"),
    ],
)
def test_a_query_that_says_nothing_is_refused(searcher: Searcher, search: Callable[[Searcher], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        search(searcher)
