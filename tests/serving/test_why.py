"""What words add to a score and where they look, against the plainest way to compute both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asker import client_of
from indexing import bring_up_to_date
from small_world import World
from starlette.testclient import TestClient

import tbps.nn.bert
from tbps.data.images import decode, resize_exactly
from tbps.finished import load_model
from tbps.methods.albef.pair_scores import CrossMatcher
from tbps.search.index import Index
from tbps.search.model import SearchModel
from tbps.search.preparing import upright_pixels
from tbps.search.searcher import Searcher
from tbps.serving.desk import Desk
from tbps.serving.why import explain, grid_of

pytestmark = pytest.mark.xdist_group("serving")  # trained once
SENTENCE = "a woman in a red coat"


def picture_of(index: Path) -> bytes:
    return next(path for path in sorted((index.parent / "pictures").rglob("0*.jpg"))).read_bytes()


def score_of(model: SearchModel, content: bytes, sentence: str) -> float:
    pixels = resize_exactly(decode(content, key=""), image_px=model.image_px, interpolation=model.pixels.interpolation)
    seen, read = model.embed_pixels(pixels[None]), model.embed_sentences([sentence])
    matcher = model.matcher
    if matcher is None:
        return float(seen.feature_IE[0] @ read.embedded.feature_QE[0])
    assert seen.tokens_IPD is not None
    one = np.array([0])
    with torch.no_grad():
        scorer = matcher.prepare(read.captions, read.embedded.hidden_ND)
        return float(scorer(image_IPD=seen.tokens_IPD, image_M=one, caption_M=one))


def test_a_word_adds_the_score_minus_that_without_it(model: SearchModel, index: Path) -> None:
    content = picture_of(index)
    why = explain(model, upright_pixels(content)[0], "A woman, in a red coat!")
    assert [word.text for word in why.words] == SENTENCE.split() and (why.kind, why.num_unread) == ("matching", 0)
    whole = score_of(model, content, SENTENCE)
    assert why.score == pytest.approx(whole, abs=1e-5)
    expected = [
        whole - score_of(model, content, " ".join(SENTENCE.split()[:at] + SENTENCE.split()[at + 1 :])) for at in range(6)
    ]
    assert np.allclose([word.adds for word in why.words], expected, atol=1e-5) and len(set(expected)) > 3
    (alone,) = explain(model, upright_pixels(content)[0], "coat").words
    assert alone.adds is None and alone.map_hw is not None


def test_weights_are_attention_times_its_gradient(model: SearchModel, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = resize_exactly(
        decode(picture_of(index), key=""), image_px=model.image_px, interpolation=model.pixels.interpolation
    )
    tokens_IPD, matcher = model.embed_pixels(pixels[None]).tokens_IPD, model.matcher
    assert tokens_IPD is not None and isinstance(matcher, CrossMatcher)
    read = model.embed_sentences([SENTENCE])
    asked = (read.captions, read.embedded.hidden_ND, tokens_IPD)
    weight_LP, score = matcher.token_weights(*asked)
    assert score == pytest.approx(score_of(model, picture_of(index), SENTENCE), abs=1e-5)
    assert torch.allclose(weight_LP.sum(1), torch.ones(len(weight_LP)), atol=1e-5)

    kept: list[torch.Tensor] = []

    def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
        probability = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        if key.shape[2] == tokens_IPD.shape[1]:
            probability.retain_grad()
            kept.append(probability)
        return probability @ value

    whole = torch.autograd.grad
    monkeypatch.setattr(tbps.nn.bert, "attention", plain)
    monkeypatch.setattr(torch.autograd, "grad", lambda score, at: (score.backward(retain_graph=True), whole(score, at))[1])
    matcher.token_weights(*asked)
    num_layers = len(matcher.text.layers) - matcher.text.first_cross_layer
    assert len(kept) == num_layers
    watched = kept[(num_layers + 1) // 2 - 1]
    assert watched.grad is not None
    forward, backward = watched.detach().mean(1)[0], watched.grad.mean(1)[0].clamp(min=0)
    product = forward * backward
    some = product.sum(1) > 0
    assert some.any()
    assert torch.allclose(weight_LP[some], (product / product.sum(1, keepdim=True))[some], atol=1e-4)


def test_maps_are_grids_of_patches(model: SearchModel, index: Path) -> None:
    why = explain(model, upright_pixels(picture_of(index))[0], SENTENCE)
    maps = [word.map_hw for word in why.words]
    for map_hw in maps:
        assert map_hw is not None and map_hw.shape[0] * model.image_px[1] == map_hw.shape[1] * model.image_px[0]
        assert map_hw.max() == pytest.approx(1.0) and map_hw.min() >= 0
    assert len({np.asarray(map_hw).tobytes() for map_hw in maps}) > 3, "words look at other places"


@pytest.mark.parametrize(
    ("tokens", "image_px", "grid"),
    [
        (193, (384, 128), (1, 24, 8)),
        (192, (384, 128), (0, 24, 8)),
        (49, (384, 128), (1, 12, 4)),
        (577, (384, 384), (1, 24, 24)),
        (33, (64, 32), (1, 8, 4)),
        (40, (384, 128), None),
        (1, (64, 32), None),
    ],
)
def test_tokens_are_laid_on_a_grid_of_squares(tokens: int, image_px: tuple[int, int], grid: tuple[int, ...] | None) -> None:
    assert grid_of(tokens, image_px) == grid


def test_a_method_without_cross_encoder_tells_what_words_add(world: World, index: Path, tmp_path: Path) -> None:
    from small_world import trained

    plain = load_model(trained(world, "clip"))
    content = picture_of(index)
    why = explain(plain, upright_pixels(content)[0], SENTENCE)
    assert why.kind == "similarity" and all(word.map_hw is None for word in why.words) and len(why.words) == 6
    without = score_of(plain, content, "a woman in a coat")
    assert why.words[4].adds == pytest.approx(score_of(plain, content, SENTENCE) - without, abs=1e-5)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(content)
    bring_up_to_date(tmp_path / "pictures", tmp_path / "index", plain)
    client = client_of(Desk(Searcher(Index.open(tmp_path / "index"), plain)))
    said = client.get("/api/why", params={"id": 0, "sentence": SENTENCE}).json()
    assert said["kind"] == "similarity" and [word["map"] for word in said["words"]] == [None] * 6
    (tmp_path / "pictures" / "a.jpg").unlink()
    answer = client.get("/api/why", params={"id": 0, "sentence": SENTENCE})
    assert answer.status_code == 400 and "the picture cannot be explained: it cannot be opened" in answer.json()["error"]


def test_the_server_says_why(client: TestClient, model: SearchModel) -> None:
    said = client.get("/api/why", params={"id": 3, "sentence": SENTENCE}).json()
    assert [word["word"] for word in said["words"]] == SENTENCE.split() and said["unread"] == 0
    assert np.array(said["words"][4]["map"]).shape[0] > 1
    long = client.get("/api/why", params={"id": 3, "sentence": "red coat " * 5000}).json()
    assert len(long["words"]) <= model.encoder.max_words and long["unread"] == 10_000 - len(long["words"])
    for params, status, part in (
        ({"id": "999", "sentence": "a"}, 404, "no such picture"),
        ({"id": "../3", "sentence": "a"}, 400, "id is '../3', expected the number of a picture"),
        ({"id": "3", "sentence": "?!"}, 400, "has no word, expected at least one"),
        ({"id": "3", "sentence": ""}, 400, "has no word, expected at least one"),
        ({"id": "3"}, 400, "expected id, the number of a picture, and sentence"),
    ):
        answer = client.get("/api/why", params=params)
        assert answer.status_code == status and part in answer.json()["error"]
