"""Masked words and enriched captions: words of pieces, counts, what the method's own step chooses, the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filled_run import fill_run
from small_retrieval import shown_split, small_encoder, small_method, write_split

from tbps.config.methods.aga import Aga
from tbps.config.methods.mars import Mars
from tbps.data.pairs import EvaluationSet
from tbps.methods.albef.masked_words import Word, count_words, join_pieces, training_step, words_of_pairs
from tbps.reporting.exhibits import write_exhibits
from tbps.reporting.report import write_report
from tbps.text.captions import CaptionEncoder
from tbps.text.clip_tokens import ClipTokens
from tbps.text.word_pieces import SPECIAL_TOKENS, open_word_pieces


def word(text: str, *, pieces: int = 1, masked: int = 0, vacuous: bool = False) -> Word:
    return Word(text=text, enriched=text, pieces=pieces, masked_pieces=masked, vacuous=vacuous)


def test_pieces_of_a_word_are_joined_and_keep_their_place_when_they_are_replaced(tmp_path: Path) -> None:
    entries = [*SPECIAL_TOKENS, "a", "pur", "##p", "##le", "coat", "hat", "black", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(entries))
    words = join_pieces(
        open_word_pieces(str(tmp_path / "vocab.txt")),
        [entries.index(piece) for piece in ("a", "pur", "##p", "##le", "coat", "hat")],
        [entries.index(piece) for piece in ("a", "pur", "black", "##le", "coat", "##s")],
        masked=[False, False, True, False, False, True],
        vacuous=[True, False, False, False, False, False],
    )
    assert words == [
        Word(text="a", enriched="a", pieces=1, masked_pieces=0, vacuous=True),
        Word(text="purple", enriched="pur blackle", pieces=3, masked_pieces=1, vacuous=False),
        Word(text="coat", enriched="coat", pieces=1, masked_pieces=0, vacuous=False),
        Word(text="hat", enriched="s", pieces=1, masked_pieces=1, vacuous=False),
    ]


def test_pieces_are_joined_as_their_tokeniser_does() -> None:
    clip = ClipTokens(with_mask=True)
    ids, other = clip.encode("a bagpack, red").ids, clip.encode("a bagman, blue").ids
    words = join_pieces(clip, ids, other, masked=[False, False, True, False, True], vacuous=[True] + [False] * 4)
    assert [(word.text, word.enriched, word.pieces) for word in words] == [
        ("a", "a", 1),
        ("bagpack", "bagman", 2),
        (",", ",", 1),
        ("red", "blue", 1),
    ]


def test_shares_are_of_pieces_and_tables_of_words_that_occur_often_enough() -> None:
    the, shirt, rare = word("the", vacuous=True), word("shirt", pieces=2, masked=1), word("rare", masked=1)
    found = count_words([[the] * 6, [shirt, replace(shirt, masked_pieces=0)] * 4, [rare] * 4, [word("the", masked=1)] * 2])
    assert found["captions"] == 4 and found["different_words"] == 3
    assert found["masked_ratio"] == (4 + 4 + 2) / (6 + 16 + 4 + 2)
    assert found["vacuous_share"] == 0  # the last "the" is not marked
    assert found["random_vacuous_share"] == 6 / 28
    assert found["most"] == [{"word": "shirt", "occurred": 8, "masked": 4, "vacuous": False, "share": 0.5}]
    assert found["least"] == [{"word": "the", "occurred": 8, "masked": 2, "vacuous": True, "share": 0.25}]
    assert count_words([[the, replace(the, masked_pieces=1), rare]])["vacuous_share"] == 0.5


def test_no_words_give_no_rows() -> None:
    found = count_words([])
    assert found["masked_ratio"] == found["vacuous_share"] == found["random_vacuous_share"] == 0
    assert found["most"] == found["least"] == []


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationSet, CaptionEncoder]:
    root = tmp_path_factory.mktemp("split")
    encoder = small_encoder(root)
    encoder.mark_vacuous = True
    return write_split(root), encoder


@pytest.mark.parametrize("p_tem", [0.3, 0.0])
def test_words_are_those_that_the_training_step_chooses(p_tem: float, split: tuple[EvaluationSet, CaptionEncoder]) -> None:
    evaluation_set, encoder = split
    method: Any = small_method(encoder, kind=Aga, p_tem=p_tem).eval()
    split_shown = shown_split(evaluation_set, encoder)
    shown = split_shown.read(split_shown.spread(12))
    captions = list(words_of_pairs(method.chosen_words, shown, encoder.tokeniser))
    _, numbers = method(*training_step(shown, method.draws, device=method.device))
    pieces = sum(word.pieces for caption in captions for word in caption)
    masked = sum(word.masked_pieces for caption in captions for word in caption)
    vacuous = sum(word.masked_pieces for caption in captions for word in caption if word.vacuous)
    assert 0 < masked < pieces
    assert numbers["masked_ratio"].item() == pytest.approx(masked / pieces)
    assert numbers["vacuous_share"].item() == pytest.approx(vacuous / masked)
    for text, caption in zip(shown.texts, captions, strict=True):
        assert " ".join(word.text for word in caption) == encoder.clean(text)
        for word in caption:
            assert (word.enriched != word.text) == (word.masked_pieces > 0 and p_tem > 0)
    assert not method.past.pending


def test_the_page_shows_words_as_text(tmp_path: Path, split: tuple[EvaluationSet, CaptionEncoder]) -> None:
    evaluation_set, encoder = split
    method = small_method(encoder, kind=Aga)
    fill_run(tmp_path / "run")
    assert "Masked words" not in write_report(tmp_path / "run").read_text()
    write_exhibits(tmp_path / "run", "final-here-test", method.eval().exhibits(shown_split(evaluation_set, encoder)))
    file = tmp_path / "run/report/exhibits-final-here-test.json"
    found = json.loads(file.read_text())
    (exhibit,) = found["exhibits"]
    shared, counted, examples = exhibit["parts"]
    (shares,), (most, least) = shared["tables"], counted["tables"]
    assert exhibit["explanation"].startswith("42 captions spread over the split, masked once as in training (attention)")
    assert most["rows"] and least["rows"] and len(examples["cards"]) == 8
    picture, original, enriched = examples["cards"][0]["cells"]
    assert [words["title"] for words in (original, enriched)] == ["original", "enriched"]
    assert [cell["kind"] for cell in (picture, original, enriched)] == ["pictures", "words", "words"]
    enriched["words"][0] = ["<b>bold</b>", True]
    most["rows"][0][0]["text"] = "<i>"
    file.write_text(json.dumps(found))
    page = write_report(tmp_path / "run").read_text()
    assert "<mark>&lt;b&gt;bold&lt;/b&gt;</mark>" in page and "<td>&lt;i&gt;" in page and "<b>bold" not in page
    assert page.count('alt="the image of ') == 8 and "final-here-test" in page
    assert f"{100 * shares['rows'][1][2]['value']:.1f} %" in page


def test_a_run_that_enriches_nothing_says_so(tmp_path: Path, split: tuple[EvaluationSet, CaptionEncoder]) -> None:
    evaluation_set, encoder = split
    fill_run(tmp_path / "run")
    write_exhibits(
        tmp_path / "run",
        "x",
        small_method(encoder, kind=Aga, p_tem=0.0).eval().exhibits(shown_split(evaluation_set, encoder)),
    )
    page = write_report(tmp_path / "run").read_text()
    assert "Masked captions" in page and "this run enriches no captions" in page
    assert "<small>enriched</small>" not in page


def test_captions_without_a_masked_word_are_no_examples(tmp_path: Path, split: tuple[EvaluationSet, CaptionEncoder]) -> None:
    evaluation_set, encoder = split
    fill_run(tmp_path / "run")
    nothing = small_method(encoder, kind=Aga, alpha_1=0.0, alpha_2=0.0)
    write_exhibits(tmp_path / "run", "x", nothing.eval().exhibits(shown_split(evaluation_set, encoder)))
    assert "No word of these captions was masked." in write_report(tmp_path / "run").read_text()


def test_mars_shows_pictures_and_no_words(tmp_path: Path, split: tuple[EvaluationSet, CaptionEncoder]) -> None:
    evaluation_set, encoder = split
    write_exhibits(tmp_path, "x", small_method(encoder, kind=Mars).eval().exhibits(shown_split(evaluation_set, encoder)))
    assert [file.name for file in (tmp_path / "report").iterdir()] == ["exhibits-x.json"]
    shown = json.loads((tmp_path / "report/exhibits-x.json").read_text())
    (exhibit,) = shown["exhibits"]
    assert exhibit["title"] == "Masked image modelling"
    assert [card["title"] for card in exhibit["parts"][0]["cards"]] == [
        evaluation_set.query_caption(query) for query in (0, 8, 16, 24, 32, 41)
    ]


def test_a_method_without_examples_writes_none(tmp_path: Path, split: tuple[EvaluationSet, CaptionEncoder]) -> None:
    evaluation_set, encoder = split
    write_exhibits(tmp_path, "x", small_method(encoder).eval().exhibits(shown_split(evaluation_set, encoder)))
    assert not list(tmp_path.iterdir())


def test_queries_are_spread_and_different(split: tuple[EvaluationSet, CaptionEncoder]) -> None:
    shown = shown_split(*split)
    assert shown.spread(3) == [0, 20, 41]
    assert shown.spread(100) == list(range(42))
