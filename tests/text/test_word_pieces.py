import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers

from tbps.text.word_pieces import SPECIAL_TOKENS, WordPieces, open_word_pieces, train_vocabulary

CAPTIONS = [
    "a man in a black shirt and blue jeans",
    "a woman with long brown hair wearing a red dress",
    "the man is wearing white shoes and carrying a backpack",
] * 3


@pytest.fixture
def vocabulary(tmp_path: Path) -> WordPieces:
    return train_vocabulary(CAPTIONS, size=90, path=tmp_path / "vocab.txt")


def test_trained_vocabulary_starts_with_the_special_tokens(vocabulary: WordPieces, tmp_path: Path) -> None:
    lines = (tmp_path / "vocab.txt").read_text().splitlines()
    assert tuple(lines[:5]) == SPECIAL_TOKENS
    assert len(lines) == vocabulary.size == 90
    assert lines == vocabulary.words()
    assert (vocabulary.pad_id, vocabulary.unk_id, vocabulary.start_id, vocabulary.sep_id, vocabulary.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["vocab.txt"]


def test_training_is_the_same_in_every_process(vocabulary: WordPieces, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tbps.text.word_pieces import train_vocabulary;"
        f"train_vocabulary({CAPTIONS!r}, size=90, path=Path(sys.argv[1]))"
    )
    # The trainer's hash tables are seeded anew in each process.
    for n in range(3):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / f"again{n}.txt")], check=True)
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    assert len(digests) == 1


def test_training_too_small_or_on_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"vocabulary size is 12, expected at least \d+: 5 special tokens and \d+ characters"
    ):
        train_vocabulary(CAPTIONS, size=12, path=tmp_path / "v.txt")
    with pytest.raises(ValueError, match="no word in 2 captions, expected at least one to train a vocabulary on"):
        train_vocabulary(["", "  "], size=100, path=tmp_path / "v.txt")
    assert not list(tmp_path.iterdir())


def test_training_says_when_it_finds_fewer_pieces(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    size = train_vocabulary(["ab ab"], size=100, path=tmp_path / "v.txt").size
    assert f"only {size} word pieces, fewer than the 100 asked for" in caplog.text


def test_encode_and_decode(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, "back", "##pack", "blue"]) + "\n\n")
    vocabulary = open_word_pieces(str(path))
    pieces, unknown = vocabulary.encode_batch(["Blue backpack", "xyz"])
    assert pieces.ids == [7, 5, 6]
    assert pieces.offsets == [(0, 4), (5, 9), (9, 13)]
    assert unknown.ids == [vocabulary.unk_id]
    assert vocabulary.decode([2, 7, 5, 6, 3, 0, 0]) == "blue backpack"
    assert vocabulary.id_of("##pack") == 6
    assert vocabulary.id_of("pack") is None
    with pytest.raises(IndexError, match="has no entry 8, expected 0 to 7"):
        vocabulary.word_of(8)


def test_words_seen_before_give_what_the_whole_text_gives(vocabulary: WordPieces) -> None:
    texts = ["a black  shirt", "", " caf\u00e9 \u4e2d\u6587man red-dress [MASK]ed ", "don't x\u0301\u200b y\tz", "qqq " * 3]
    for text in texts * 2:
        whole = vocabulary._tokenizer.encode(text, add_special_tokens=False)
        pieces = vocabulary.encode(text)
        assert (pieces.ids, pieces.offsets) == (whole.ids, whole.offsets)


def test_a_tokenizer_that_does_not_cut_at_spaces_sees_the_whole_text(vocabulary: WordPieces, tmp_path: Path) -> None:
    tokenizer = vocabulary._tokenizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split("black shirt", "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    # "black shirt" is one word here, with a space that no piece holds.
    assert open_word_pieces(str(tmp_path / "tokenizer.json")).encode("black shirt").ids == [vocabulary.unk_id]


def test_pickles(vocabulary: WordPieces) -> None:
    again = pickle.loads(pickle.dumps(vocabulary))
    assert again.encode("black shirt") == vocabulary.encode("black shirt")
    assert again.words() == vocabulary.words()


def test_every_local_form_gives_the_same_ids(vocabulary: WordPieces, tmp_path: Path) -> None:
    vocabulary._tokenizer.save(str(tmp_path / "tokenizer.json"))
    expected = vocabulary.encode("a black shirt with buttons").ids
    for name in (tmp_path / "vocab.txt", tmp_path / "tokenizer.json", tmp_path):
        assert open_word_pieces(str(name)).encode("a black shirt with buttons").ids == expected


def test_a_saved_tokenizer_neither_cuts_nor_pads(vocabulary: WordPieces, tmp_path: Path) -> None:
    expected = vocabulary.encode("a man with buttons").ids
    vocabulary._tokenizer.enable_truncation(1)
    vocabulary._tokenizer.enable_padding(length=40)
    vocabulary._tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert open_word_pieces(str(tmp_path / "tokenizer.json")).encode("a man with buttons").ids == expected


def test_unusable_local_files(tmp_path: Path) -> None:
    def message_of(path: Path) -> str:
        with pytest.raises(ValueError) as caught:
            open_word_pieces(str(path))
        return str(caught.value)

    assert "absent.txt does not exist; give a vocab.txt" in message_of(tmp_path / "absent.txt")
    assert "has neither tokenizer.json nor vocab.txt" in message_of(tmp_path)
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, "a", "a"]))
    assert "has 7 lines but 6 different entries" in message_of(path)
    path.write_text("")
    assert "has 0 lines but 0 different entries" in message_of(path)
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nblue")
    assert "has no entry [MASK], expected [PAD]" in message_of(path)
    path.write_text("blue\n" + "\n".join(SPECIAL_TOKENS))
    assert "has [PAD] as entry 1, expected entry 0" in message_of(path)
    path.write_bytes(b"\xff\xfe\x00\x41")
    assert "is not UTF-8 text" in message_of(path)
    for text in ("not json", "{}"):
        (tmp_path / "other.json").write_text(text)
        assert "other.json is not a tokenizer (" in message_of(tmp_path / "other.json")


def test_local_vocabularies_do_not_import_transformers(vocabulary: WordPieces, tmp_path: Path) -> None:
    code = (
        "import sys; from tbps.text.word_pieces import open_word_pieces; open_word_pieces(sys.argv[1]).encode('a man');"
        "sys.exit(int('transformers' in sys.modules or 'torch' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "vocab.txt")], check=True)


@pytest.mark.slow  # imports transformers in a process of its own
def test_hugging_face_names_without_a_network(vocabulary: WordPieces, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123abc")
    vocabulary._tokenizer.save(str(snapshot / "tokenizer.json"))
    (snapshot / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (snapshot / "config.json").write_text('{"model_type": "bert"}')
    code = (
        "from tbps.text.word_pieces import open_word_pieces\n"
        "print(open_word_pieces('someone/tiny').encode('a black shirt').ids)\n"
        "for name in ('someone/absent', 'no such name!'):\n"
        "    try: open_word_pieces(name)\n"
        "    except ValueError as error: print(error)\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    cached, absent, malformed = done.stdout.strip().splitlines()
    assert cached == str(vocabulary.encode("a black shirt").ids)
    for name, message in (("someone/absent", absent), ("no such name!", malformed)):
        assert message.startswith(f"vocabulary {name} is no local file or folder, and could not be loaded as a Hugging Face")
        assert message.endswith("check the name, download it first where there is a network, or give a vocab.txt")
