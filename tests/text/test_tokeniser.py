"""Which tokeniser a run opens, and how a wrong one is refused."""

import dataclasses
from pathlib import Path
from types import ModuleType

import pytest

from recipes.mars import tiny
from tbps.config.consistency import check_captioning
from tbps.config.data import Captioning
from tbps.config.needs import Text
from tbps.text.clip_tokens import ClipTokens
from tbps.text.pieces import Pieces
from tbps.text.tokeniser import open_tokeniser
from tbps.text.word_pieces import SPECIAL_TOKENS, WordPieces, open_word_pieces

CLIP = Text(tokeniser="clip", size=49_408, max_tokens=77, start_id=49_406, mask_id=49_405, settings="method.clip")


@pytest.fixture
def vocab_txt(tmp_path: Path) -> str:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, "red", "shirt"]))
    return str(path)


def captioning(vocabulary: str, **changes: int) -> Captioning:
    return Captioning(vocabulary=vocabulary, max_words=50, **{"max_tokens": 50, **changes})


def bert(**changes: int) -> Text:
    return dataclasses.replace(Text(size=7, max_tokens=50, start_id=2, mask_id=4, settings="method.bert"), **changes)


def test_each_kind_is_opened(vocab_txt: str) -> None:
    assert isinstance(open_tokeniser(captioning(vocab_txt), bert()), WordPieces)
    masked = open_tokeniser(captioning("clip"), CLIP)
    plain = open_tokeniser(captioning("clip"), dataclasses.replace(CLIP, mask_id=None))
    assert isinstance(masked, ClipTokens) and isinstance(plain, ClipTokens)
    assert (masked.mask_id, plain.mask_id) == (49_405, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"size": 30_522},
            "vocab.txt has 7 entries but the text encoder was built for 30522; choose the vocabulary the weights were"
            " trained with, or set the size in method.bert to 7",
        ),
        ({"start_id": 101}, "vocab.txt has 2 as the first token, but the text encoder expects 101; choose the"),
        ({"mask_id": 103}, "has 4 as the token for a masked word, but the text encoder expects 103; choose the vocabulary"),
    ],
)
def test_a_vocabulary_that_does_not_fit_the_encoder(vocab_txt: str, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        open_tokeniser(captioning(vocab_txt), bert(**changes))
    assert message in str(caught.value)


def test_clip_of_another_size() -> None:
    with pytest.raises(
        ValueError, match="vocabulary clip has 49408 entries but the text encoder was built for 1000; choose"
    ):
        open_tokeniser(captioning("clip"), dataclasses.replace(CLIP, size=1000))


def test_a_vocabulary_of_another_kind(vocab_txt: str) -> None:
    with pytest.raises(ValueError, match=r"^data.captioning.vocabulary is '.*vocab.txt', expected 'clip': the text encoder"):
        open_tokeniser(captioning(vocab_txt), CLIP)
    with pytest.raises(ValueError, match=r"^data.captioning.vocabulary is 'bert-base-uncased', expected 'clip'"):
        check_captioning(captioning("bert-base-uncased"), CLIP)
    with pytest.raises(
        ValueError, match=r"^data.captioning.vocabulary is 'clip', expected BERT word pieces, which the text"
    ):
        open_tokeniser(captioning("clip"), bert())


def test_a_run_is_refused_when_it_is_made() -> None:
    run = tiny()
    with pytest.raises(ValueError, match=r"^data.captioning.vocabulary is 'clip', expected BERT word pieces"):
        dataclasses.replace(
            run, data=dataclasses.replace(run.data, captioning=dataclasses.replace(run.data.captioning, vocabulary="clip"))
        )


def test_captions_longer_than_the_encoder_reads() -> None:
    with pytest.raises(
        ValueError, match=r"max_tokens is 78, expected at most 77, the longest caption .* reads \(method.clip\); change"
    ):
        open_tokeniser(captioning("clip", max_tokens=78), CLIP)
    with pytest.raises(ValueError, match=r"max_training_tokens is 80, expected at most 77"):
        open_tokeniser(captioning("clip", max_training_tokens=80), CLIP)


def test_a_method_brings_its_own(vocab_txt: str) -> None:
    own = open_word_pieces(vocab_txt)
    text = Text(tokeniser="own", size=own.size, max_tokens=50, start_id=own.start_id)
    module = ModuleType("somebody.words")
    asked = captioning("letters")
    with pytest.raises(
        ValueError, match=r"but somebody.words has no function open_tokeniser\(captioning\), which opens it;"
    ):
        open_tokeniser(asked, text, module)
    with pytest.raises(ValueError, match=r"but its module has no function open_tokeniser"):
        open_tokeniser(asked, text)
    given = []

    def opener(captioning: Captioning) -> object:
        given.append(captioning)
        return own

    module.open_tokeniser = opener  # type: ignore[attr-defined]
    assert open_tokeniser(asked, text, module) is own and given == [asked]
    with pytest.raises(ValueError, match=r"has 7 entries but the text encoder was built for 9; .* set the size in method"):
        open_tokeniser(asked, dataclasses.replace(text, size=9), module)


def test_word_pieces_as_a_tokeniser(vocab_txt: str) -> None:
    words = open_tokeniser(captioning(vocab_txt), bert())
    assert (words.start_id, words.end_id, words.mask_id, words.pad_id) == (2, None, 4, 0)
    assert words.special_ids == (0, 2, 3, 4) and words.random_ids == (0, 7)
    assert words.encode("red shirt") == Pieces(ids=[5, 6], offsets=[(0, 3), (4, 9)])
