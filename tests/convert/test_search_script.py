"""The tokenisers that travel with an export, in plain Python, cut as ours do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from exportable_runs import CAPTIONS
from tokenizers import Tokenizer

from tbps.convert import search_script
from tbps.text.cleaning import clean_caption
from tbps.text.clip_tokens import ClipTokens
from tbps.text.tokeniser import Tokeniser
from tbps.text.tokeniser_files import tokeniser_files
from tbps.text.word_pieces import open_word_pieces, train_vocabulary

ODD = (
    "",
    "   ",
    "A man's T-shirt,RED/blue; size 42!",
    "don't they'll we're I've he'd I'm it's 'tis rock'n'roll o'clock''",
    "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m stra\u00dfe \u0130stanbul \u00d1",
    "\u201cquoted\u201d \u2018single\u2019 it\u2019s \u2014 dash \u2013 \u2026",
    "\u5973\u4eba red \u7ea2\u8272 coat\u3000wide \uff21\uff22",
    "\u0436\u0435\u043d\u0449\u0438\u043d\u0430 \u0412 \u043a\u0440\u0430\u0441\u043d\u043e\u043c",
    "\u0627\u0645\u0631\u0623\u0629 \u0e1c\u0e39\u0e49\u0e2b\u0e0d\u0e34\u0e07",
    "emoji \U0001f9e5\U0001f469\u200d\U0001f9b0 flag",
    "tab\tand\nnew\rline\x00null\x07bell\u200bzero",
    "x" * 150 + " " + "y" * 100,
    "12345 \u00bd \u2167 \u0663 3rd 4x4",
    "<start_of_text> a man <end_of_text> <person> <|mask|>",
    "a &amp; b &lt;i&gt; &amp;amp; & c &nbsp; d",
    "`ticks` ~tilde~ #tag @you [brackets] {braces} a_b |bar| ^ $5 10% = + \\ *",
    "\ufb01ne \ufb02ag \u0149 e\u0301 combining",
    "jekyll jekylls Jekyll and hyde aaa aaaa aaaaa",
    "'' \"\" -- // .'.",
)
SENTENCES = (*CAPTIONS, *ODD, *(f"{one} {other}" for one in CAPTIONS[:20] for other in ODD))


def _plain(tokeniser: Tokeniser, folder: Path) -> search_script.WordPieces | search_script.BytePairs:
    files, told = tokeniser_files(tokeniser)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    told = json.loads(json.dumps(told))
    return (search_script.WordPieces if told["kind"] == "word-pieces" else search_script.BytePairs)(told, folder)


@pytest.mark.parametrize("cleaning", ["space", "delete", "none"])
def test_sentences_are_cleaned_alike(cleaning: str) -> None:
    assert len(SENTENCES) > 400
    for sentence in SENTENCES:
        assert " ".join(search_script.clean(sentence, cleaning)) == clean_caption(sentence, cleaning=cleaning)  # type: ignore[arg-type]


@pytest.mark.parametrize("cleaning", ["space", "none"])
def test_word_pieces_are_alike(tmp_path: Path, cleaning: str) -> None:
    ours = train_vocabulary([*CAPTIONS, *ODD], size=700, path=tmp_path / "trained.txt")
    plain = _plain(ours, tmp_path)
    for sentence in SENTENCES:
        text = clean_caption(sentence, cleaning=cleaning)  # type: ignore[arg-type]
        assert plain.encode(text) == ours.encode(text).ids, sentence


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("cleaning", ["space", "none"])
def test_byte_pairs_are_alike(tmp_path: Path, with_mask: bool, cleaning: str) -> None:
    ours = ClipTokens(with_mask=with_mask)
    plain = _plain(ours, tmp_path)
    for sentence in SENTENCES:
        text = clean_caption(sentence, cleaning=cleaning)  # type: ignore[arg-type]
        assert plain.encode(text) == ours.encode(text).ids, sentence


def test_word_pieces_of_another_cut_are_told_as_such(tmp_path: Path) -> None:
    trained = train_vocabulary(CAPTIONS, size=300, path=tmp_path / "trained.txt")
    told = json.loads(trained.to_json())
    told["normalizer"]["lowercase"] = False
    Tokenizer.from_str(json.dumps(told)).save(str(tmp_path / "cased.json"))
    files, description = tokeniser_files(open_word_pieces(str(tmp_path / "cased.json")))
    assert list(files) == ["tokenizer.json"] and description["kind"] == "own"
    assert open_word_pieces(str(tmp_path / "cased.json")).encode("A").ids != trained.encode("A").ids


def test_names_of_files_cannot_reach_the_terminal() -> None:
    assert search_script.printed("a\x1b[31m\n\u202eb\u00e9.jpg") == "a\\x1b[31m\\n\\u202eb\u00e9.jpg"
