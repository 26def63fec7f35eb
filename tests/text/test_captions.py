import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import starmap
from pathlib import Path

import pytest
import torch

from tbps.data.chunk_store import ChunkStore, KeptChunks
from tbps.text.captions import CaptionEncoder, EncodedCaption, make_captions, says_side
from tbps.text.chunks import BuiltinChunker, Chunker, ContentWord
from tbps.text.clip_tokens import ClipTokens
from tbps.text.word_pieces import SPECIAL_TOKENS, WordPieces, open_word_pieces

WORDS = "a the man with red shirt his blue jean ##s back ##pack ##ed sneaker and black striped long is t"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> WordPieces:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, *WORDS.split()]))
    return open_word_pieces(str(path))


def encoder_of(
    vocabulary: WordPieces,
    *,
    max_words: int = 50,
    max_tokens: int = 50,
    chunker: Chunker | None = None,
    frequencies: dict[str, float] | None = None,
    mark_vacuous: bool = False,
) -> CaptionEncoder:
    return CaptionEncoder(
        vocabulary,
        max_words=max_words,
        max_tokens=max_tokens,
        cleaning="space",
        chunker=chunker,
        frequencies=frequencies,
        mark_vacuous=mark_vacuous,
    )


def pieces_of(vocabulary: WordPieces, encoded: EncodedCaption) -> list[str]:
    return [vocabulary.word_of(token_id) for token_id in encoded.token_ids.tolist()]


def test_starts_with_cls_and_has_no_sep(vocabulary: WordPieces) -> None:
    encoded = encoder_of(vocabulary).encode("The man, with a backpack!", "k")
    assert pieces_of(vocabulary, encoded) == ["[CLS]", "the", "man", "with", "a", "back", "##pack"]
    assert encoded.token_ids.dtype == encoded.chunk_ids.dtype == torch.int64
    assert not encoded.chunk_ids.any()
    assert encoded.num_chunks == 0


def test_chunks_are_aligned_through_word_pieces(vocabulary: WordPieces) -> None:
    encoded = encoder_of(vocabulary, chunker=BuiltinChunker()).encode(
        "The man is with a T-shirt, blue and black jeans and a striped backpack.", "k"
    )
    assert list(zip(pieces_of(vocabulary, encoded), encoded.chunk_ids.tolist())) == [
        *[("[CLS]", 0), ("the", 0), ("man", 0), ("is", 0), ("with", 0), ("a", 0), ("t", 0), ("shirt", 0)],
        *[("blue", 1), ("and", 0), ("black", 1), ("jean", 1), ("##s", 1), ("and", 0), ("a", 0)],
        *[("striped", 2), ("back", 2), ("##pack", 2)],
    ]
    assert (encoded.num_chunks, encoded.num_dropped_chunks, encoded.num_dropped_tokens) == (2, 0, 0)


def test_unknown_words_of_a_chunk_belong_to_it(vocabulary: WordPieces) -> None:
    encoded = encoder_of(vocabulary, chunker=BuiltinChunker()).encode("a purple caf\u00e9 shirt, red sneakers", "k")
    assert pieces_of(vocabulary, encoded)[1:5] == ["a", "[UNK]", "[UNK]", "shirt"]
    assert encoded.chunk_ids.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("max_tokens", "chunk_ids", "dropped_chunks"),
    [
        (50, [0, 0, 1, 1, 0, 0, 2, 2, 2, 0, 0, 3, 3, 3], 0),
        (14, [0, 0, 1, 1, 0, 0, 2, 2, 2, 0, 0, 3, 3, 3], 0),
        # "red sneaker" is left of "red sneakers": the whole chunk goes.
        (13, [0, 0, 1, 1, 0, 0, 2, 2, 2, 0, 0, 0, 0], 1),
        (8, [0, 0, 1, 1, 0, 0, 0, 0], 2),
        (3, [0, 0, 0], 3),
    ],
)
def test_truncation_drops_whole_chunks(
    vocabulary: WordPieces, max_tokens: int, chunk_ids: list[int], dropped_chunks: int
) -> None:
    encoder = encoder_of(vocabulary, max_tokens=max_tokens, chunker=BuiltinChunker(), frequencies={"red": 1.0})
    encoded = encoder.encode("a red shirt with a blue backpack and a red sneakers", "k")
    assert encoded.chunk_ids.tolist() == chunk_ids
    assert len(encoded.token_ids) == min(14, max_tokens)
    assert encoded.num_dropped_chunks == dropped_chunks
    assert encoded.num_dropped_tokens == max(0, 14 - max_tokens)
    assert encoded.chunk_weights is not None
    assert encoded.chunk_weights.tolist() == [0.5, 1.0, 0.5][: 3 - dropped_chunks]


class Recorded:
    """Gives the same words for every caption, such as the built-in chunker never finds."""

    name = "recorded"

    def __init__(self, *rows: tuple[int, int, int]) -> None:
        self.found = tuple(starmap(ContentWord, rows))

    def words(self, captions: Iterable[str]) -> Iterator[tuple[ContentWord, ...]]:
        for _ in captions:
            yield self.found


def test_pieces_that_touch_a_chunk_are_not_in_it(vocabulary: WordPieces) -> None:
    encoded = encoder_of(vocabulary, chunker=Recorded((0, 4, 1), (5, 9, 1))).encode("blue&jean", "k")
    assert pieces_of(vocabulary, encoded) == ["[CLS]", "blue", "[UNK]", "jean"]
    assert encoded.chunk_ids.tolist() == [0, 1, 0, 1]


def test_kept_chunks_are_numbered_without_gaps(vocabulary: WordPieces) -> None:
    # Chunk 1 goes around chunk 2, and its last word does not fit.
    encoder = encoder_of(vocabulary, max_tokens=4, chunker=Recorded((0, 3, 1), (4, 9, 2), (10, 14, 2), (15, 20, 1)))
    encoded = encoder.encode("red shirt blue black", "k")
    assert encoded.chunk_ids.tolist() == [0, 0, 1, 1]
    assert encoded.num_dropped_chunks == 1


@pytest.mark.parametrize("caption", ["", "  ", "...", "\x00\x07"])
def test_empty_caption_names_its_pair(vocabulary: WordPieces, caption: str) -> None:
    for chunker in (None, BuiltinChunker()):
        with pytest.raises(
            ValueError, match=r"pair train/7_2.jpg#1: its caption .* has no word left after cleaning, expected"
        ):
            encoder_of(vocabulary, chunker=chunker).encode(caption, "train/7_2.jpg#1")


def test_stop_words_and_long_captions(vocabulary: WordPieces) -> None:
    encoder = encoder_of(vocabulary, max_words=400, max_tokens=512, chunker=BuiltinChunker())
    assert encoder.encode("the and with is", "k").num_chunks == 0
    encoded = encoder.encode("a red shirt and the " * 100, "k")
    assert len(encoded.token_ids) == 401
    assert encoded.num_chunks == 80


def test_impossible_limits(vocabulary: WordPieces) -> None:
    with pytest.raises(ValueError, match="max_words is -1, expected at least 1, or 0 for all words"):
        encoder_of(vocabulary, max_words=-1)
    with pytest.raises(ValueError, match="max_tokens is 1, expected at least 2: the start token and one piece"):
        encoder_of(vocabulary, max_tokens=1)
    with pytest.raises(ValueError, match="max_tokens is 2, expected at least 3: the start token, the end token and"):
        CaptionEncoder(ClipTokens(with_mask=False), max_words=0, max_tokens=2, cleaning="none", chunker=None)


def test_words_and_tokens_that_are_kept(vocabulary: WordPieces) -> None:
    assert encoder_of(vocabulary, max_words=3).clean("A red-shirt. The man") == "a red shirt"
    assert encoder_of(vocabulary, max_words=0).clean("word " * 500) == " ".join(["word"] * 500)


def test_a_chunk_across_the_cap_of_words_is_dropped(vocabulary: WordPieces) -> None:
    caption = "a red shirt with a blue backpack"
    encoded = encoder_of(vocabulary, max_words=6, chunker=BuiltinChunker(), frequencies={"red": 1.0}).encode(caption, "k")
    assert encoded.chunk_ids.tolist() == [0, 0, 1, 1, 0, 0, 0]
    assert (encoded.num_dropped_chunks, encoded.num_dropped_words) == (1, 1)
    assert encoded.chunk_weights is not None and encoded.chunk_weights.tolist() == [0.5]


def test_pickled_encoder_encodes_the_same(vocabulary: WordPieces, tmp_path: Path) -> None:
    captions = ["a red shirt", "the man with a striped backpack"]
    store = ChunkStore(tmp_path, portions=2)
    store.find([0, 1], captions, BuiltinChunker())
    kept = KeptChunks(store.files, name="builtin")
    encoder = encoder_of(vocabulary, chunker=kept, frequencies={"red": 1.0})
    before = encoder.encode_many(captions, ["1", "2"])
    after = pickle.loads(pickle.dumps(encoder)).encode_many(captions, ["1", "2"])
    for one, two in zip(before, after):
        assert torch.equal(one.token_ids, two.token_ids)
        assert torch.equal(one.chunk_ids, two.chunk_ids)
        assert one.chunk_weights is not None and two.chunk_weights is not None
        assert torch.equal(one.chunk_weights, two.chunk_weights)


def test_make_captions(vocabulary: WordPieces) -> None:
    encoder = encoder_of(vocabulary, chunker=BuiltinChunker())
    encoded = encoder.encode_many(["the man", "a red shirt with a blue jeans and a"], ["1", "2"])
    captions = make_captions(encoded)
    assert captions.lengths == (3, 11)
    assert captions.token_ids_BL.shape == captions.chunk_id_BL.shape == (2, 16)
    for row, caption in enumerate(encoded):
        length = captions.lengths[row]
        assert torch.equal(captions.token_ids_BL[row, :length], caption.token_ids)
        assert not captions.token_ids_BL[row, length:].any()
        assert torch.equal(captions.chunk_id_BL[row, :length], caption.chunk_ids)
        assert not captions.chunk_id_BL[row, length:].any()
    assert captions.chunk_weight_BC is None
    assert make_captions(encoder.encode_many(["a red shirt with a blue man"], ["1"])).token_ids_BL.shape == (1, 8)


def test_rows_are_filled_with_the_tokenisers_padding(vocabulary: WordPieces) -> None:
    encoded = encoder_of(vocabulary).encode_many(["the man", "a red shirt"], ["1", "2"])
    captions = make_captions([replace(caption, pad_id=7) for caption in encoded])
    assert captions.real_BL.tolist() == [[True] * 3 + [False] * 5, [True] * 4 + [False] * 4]
    assert (captions.token_ids_BL[~captions.real_BL] == 7).all() and not captions.chunk_id_BL.any()


def test_make_captions_with_weights(vocabulary: WordPieces) -> None:
    encoder = encoder_of(vocabulary, chunker=BuiltinChunker(), frequencies={"red": 1.0, "shirt": 0.5})
    captions = make_captions(encoder.encode_many(["the man", "a red shirt and a long shirt"], ["1", "2"]))
    assert captions.chunk_weight_BC is not None
    assert captions.chunk_weight_BC.tolist() == [[0.0, 0.0], [0.25, 0.75]]
    none = make_captions(encoder.encode_many(["the man"], ["1"]))
    assert none.chunk_weight_BC is not None
    assert none.chunk_weight_BC.shape == (1, 0)


def test_encoding_costs_less_than_the_tokenizer_alone(vocabulary: WordPieces) -> None:
    encoder = encoder_of(vocabulary)
    caption = "The man with a red shirt, blue jeans and a striped backpack is with his black sneakers. " * 2
    text = encoder.clean(caption)

    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    # The fastest of many, in turns: other processes share the machine.
    times = [
        (
            seconds(lambda: vocabulary._tokenizer.encode(text, add_special_tokens=False)),
            seconds(lambda: encoder.encode(caption, "k")),
        )
        for _ in range(1000)
    ]
    whole, ours = (min(column) for column in zip(*times, strict=True))
    assert ours < whole


@pytest.mark.parametrize("chunker", [None, BuiltinChunker()])
def test_every_piece_of_a_vacuous_word_is_marked(vocabulary: WordPieces, chunker: Chunker | None) -> None:
    encoder = encoder_of(vocabulary, chunker=chunker, mark_vacuous=True, max_tokens=8)
    caption = encoder.encode("The man is with a red backpack, and his jeans.", "a")
    # [CLS] the man is with a red back | ##pack and his jean ##s
    assert caption.vacuous is not None and caption.vacuous.tolist() == [False, True, False, True, True, True, False, False]
    other = encoder.encode("that that", "b")  # no whole piece of the vocabulary
    assert other.vacuous is not None and other.vacuous.tolist() == [False, *[True] * (len(other.token_ids) - 1)]
    stacked = make_captions([caption, other])
    assert stacked.vacuous_BL is not None and stacked.vacuous_BL.shape == stacked.token_ids_BL.shape
    assert not stacked.vacuous_BL[1, len(other.token_ids) :].any()


def test_vacuous_words_are_marked_only_where_asked_for(vocabulary: WordPieces) -> None:
    caption = encoder_of(vocabulary).encode("the man", "a")
    assert caption.vacuous is None and make_captions([caption]).vacuous_BL is None


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A bag in her Left hand", True),
        ("shirt.RIGHT arm", True),
        ("a left-handed man facing rightward", True),
        ("a bright, upright copyright leftover", False),
        ("", False),
    ],
)
def test_says_side(caption: str, expected: bool) -> None:
    assert says_side(caption) is expected
