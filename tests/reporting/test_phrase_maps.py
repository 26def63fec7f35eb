"""What LAIP's phrases look at: pictures, phrases in words, the page."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from filled_run import fill_run
from PIL import Image
from small_retrieval import IMAGE_PX, shown_split, small_encoder, small_method, write_split

from tbps.config.methods.laip import Laip, LaipWeights
from tbps.data.pairs import EvaluationSet
from tbps.methods.heat_map import heated
from tbps.reporting.exhibits import write_exhibits
from tbps.reporting.report import write_report
from tbps.text.captions import CaptionEncoder
from tbps.text.chunks import BuiltinChunker


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationSet, CaptionEncoder]:
    root = tmp_path_factory.mktemp("split")
    encoder = small_encoder(root)
    encoder.chunker = BuiltinChunker()
    return write_split(root), encoder


def test_heat_is_where_the_weights_are() -> None:
    image = np.full((40, 20, 3), 100, np.uint8)
    weight = np.zeros((4, 2), np.float32)
    weight[3, 1] = 0.01  # the largest is full heat however small
    picture = heated(image, weight).astype(int)
    assert picture.shape == (40, 20, 3)
    assert picture[38, 18].tolist() == [round(100 * 0.3 + 255 * 0.7), round(100 * 0.3 + 64 * 0.7), 30]
    assert (picture[:25] == 100).all() and (picture[:, :5] == 100).all()
    for equal in (0, 1 / 8, 1):
        assert (heated(image, np.full((4, 2), equal, np.float32)) == 100).all()


def test_the_page_shows_each_phrase_with_its_maps(tmp_path: Path, split: tuple[EvaluationSet, CaptionEncoder]) -> None:
    evaluation_set, encoder = split
    fill_run(tmp_path / "run")
    assert "What phrases look at" not in write_report(tmp_path / "run").read_text()
    method = small_method(encoder, kind=Laip, attention_layer=1)
    write_exhibits(tmp_path / "run", "final-here-test", method.eval().exhibits(shown_split(evaluation_set, encoder)))
    file = tmp_path / "run/report/exhibits-final-here-test.json"
    found = json.loads(file.read_text())
    (exhibit,) = found["exhibits"]
    (part,) = exhibit["parts"]
    assert len(part["cards"]) == 6 and "Cross layer 1, weights by forward and backward attention" in exhibit["explanation"]
    first = part["cards"][0]
    assert first["title"] == evaluation_set.query_caption(0)
    image, *phrases = first["cells"]
    assert image["title"] == "image" and len(image["pictures"]) == 1
    assert [phrase["title"] for phrase in phrases] == ["red shirt", "red trousers", "red shoes"]
    assert [phrase["remark"] for phrase in phrases] == ["masked: shirt", "masked: trousers", "masked: shoes"]
    for phrase in phrases:
        assert [picture["title"] for picture in phrase["pictures"]] == ["forward", "backward", "bidirectional"]
        pictures = {picture["title"]: base64.b64decode(picture["jpeg"]) for picture in phrase["pictures"]}
        assert pictures["forward"] != pictures["backward"]
        assert Image.open(io.BytesIO(pictures["forward"])).size == (IMAGE_PX[1], IMAGE_PX[0])
    phrases[0]["title"] = "<b>red</b>"
    file.write_text(json.dumps(found))
    page = write_report(tmp_path / "run").read_text()
    assert "&lt;b&gt;red&lt;/b&gt;" in page and "<b>red" not in page and "final-here-test" in page
    assert page.count(">bidirectional</div>") == sum(len(card["cells"]) - 1 for card in part["cards"])


def test_forward_attention_alone_has_one_map(tmp_path: Path, split: tuple[EvaluationSet, CaptionEncoder]) -> None:
    evaluation_set, encoder = split
    method = small_method(encoder, kind=Laip, attention_layer=2, attention="forward", weights=LaipWeights(mpm=0))
    write_exhibits(tmp_path, "x", method.eval().exhibits(shown_split(evaluation_set, encoder)))
    found = json.loads((tmp_path / "report/exhibits-x.json").read_text())
    cards = found["exhibits"][0]["parts"][0]["cards"]
    titles = {tuple(picture["title"] for picture in phrase["pictures"]) for card in cards for phrase in card["cells"][1:]}
    assert titles == {("forward",)}


def test_captions_without_a_phrase_say_so(tmp_path: Path, split: tuple[EvaluationSet, CaptionEncoder]) -> None:
    evaluation_set, encoder = split
    plain = CaptionEncoder(encoder.tokeniser, max_words=50, max_tokens=24, cleaning="space", chunker=None)
    fill_run(tmp_path / "run")
    method = small_method(encoder, kind=Laip, attention_layer=1)
    write_exhibits(tmp_path / "run", "x", method.eval().exhibits(shown_split(evaluation_set, plain)))
    assert write_report(tmp_path / "run").read_text().count("This caption has no noun phrase.") == 6


def test_without_attention_there_is_nothing_to_show(tmp_path: Path, split: tuple[EvaluationSet, CaptionEncoder]) -> None:
    evaluation_set, encoder = split
    method = small_method(encoder, kind=Laip, weights=LaipWeights(bidir=0))
    write_exhibits(tmp_path, "x", method.eval().exhibits(shown_split(evaluation_set, encoder)))
    assert not list(tmp_path.iterdir())
