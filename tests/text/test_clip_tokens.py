import pickle
import random
import string
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from tbps.config.data import Cleaning
from tbps.data.annotations import read_annotations
from tbps.synthetic.world import write_world
from tbps.text.captions import CaptionEncoder, make_captions
from tbps.text.chunks import BuiltinChunker
from tbps.text.cleaning import clean_caption
from tbps.text.clip_tokens import MASK, ClipTokens, normalise

TOKENS = 77
REALISTIC = (Path(__file__).parent / "realistic_captions.txt").read_text().splitlines()
ODD = [
    "Jekyll and MR. JEKYLL's jekylls hat",
    "caf\u00e9 na\u00efve \u4e2d\u6587 \U0001f600 shirt",
    "&amp;amp; <person> &lt;b&gt;, it&#39;s a&nbsp;bag",
    "The woman\u2019s \u201cbig\u201d bag",
    "\u0130stanbul  x\ty\u3000z, STRASSE stra\u00dfe \u03a3\u03a3",
    "\u00c3\u00a9t\u00c3\u00a9 sch\u00c3\u00b6n",
    "\ufb01ne \uff21\uff22\uff23 \u00bd",
    "a\x1fb \x1c c\x0bd \x1b[31mred\x1b[0m",
    "!!! ! !a t-shirt/jeans 1234 $5.99 #1",
    "he's they'll I'd we've 'tis o'clock",
    "<end_of_text> <start_of_text>",
    "a\u0301 b\u200bc",
    "a man " * 38 + "a",  # 77 pieces
    "a man " * 37 + "a",  # 75 pieces: the last that fit
    "a long dress " * 50,
]


@pytest.fixture(scope="module")
def plain() -> ClipTokens:
    return ClipTokens(with_mask=False)


@pytest.fixture(scope="module")
def masked() -> ClipTokens:
    return ClipTokens(with_mask=True)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Captions of the synthetic world."""
    root = tmp_path_factory.mktemp("world")
    write_world(root, benchmark="cuhk-pedes", num_identities=40, seed=3, workers=1, image_px=(48, 16), parsing=False)
    return list(read_annotations(root, "cuhk-pedes").split("train").caption)


def encoder_of(tokeniser: ClipTokens, *, cleaning: Cleaning = "none", max_tokens: int = TOKENS) -> CaptionEncoder:
    return CaptionEncoder(tokeniser, max_words=0, max_tokens=max_tokens, cleaning=cleaning, chunker=None)


def random_texts(number: int) -> list[str]:
    rng = random.Random(0)
    signs = string.printable[:95] * 3 + "\t\n\u00e9\u00df\u00c3\u2019\u201c\u00a0\u4e2d\u0130\U0001f600&;<>"
    return ["".join(rng.choice(signs) for _ in range(rng.randrange(60))) for _ in range(number)]


def test_ids_are_those_of_open_clip(plain: ClipTokens, synthetic: list[str]) -> None:
    texts = [*REALISTIC, *ODD, *synthetic, *random_texts(2000)]
    for text, expected_L in zip(texts, open_clip.tokenize(texts), strict=True):
        ids = [plain.start_id, *plain.encode(text).ids[: TOKENS - 2], plain.end_id]
        assert [*ids, *[0] * (TOKENS - len(ids))] == expected_L.tolist()


def test_a_batch_is_that_of_open_clip(plain: ClipTokens, synthetic: list[str]) -> None:
    texts = [clean_caption(text, cleaning="none") for text in [*REALISTIC, *ODD, *synthetic]]
    ids_BL = make_captions(encoder_of(plain).encode_many(texts, texts)).token_ids_BL
    assert ids_BL.shape == (len(texts), 80)
    assert torch.equal(ids_BL[:, :TOKENS], open_clip.tokenize(texts)) and not ids_BL[:, TOKENS:].any()


@pytest.mark.parametrize("cap", [3, 16, 77])
def test_a_caption_that_is_cut_keeps_its_end(plain: ClipTokens, cap: int) -> None:
    captions = ["a man " * 100, "a man"]
    encoded = encoder_of(plain, max_tokens=cap).encode_many(captions, captions)
    batch = make_captions(encoded)
    expected = open_clip.tokenize(captions, context_length=cap)
    for row, length in enumerate(batch.lengths):
        assert batch.token_ids_BL[row, :length].tolist() == expected[row, :length].tolist()
        assert batch.token_ids_BL[row, length - 1] == plain.end_id
    assert batch.lengths == (cap, min(cap, 4))
    assert encoded[0].num_dropped_tokens == 200 - (cap - 2)


def test_ids_and_words(plain: ClipTokens, masked: ClipTokens) -> None:
    assert plain.size == masked.size == 49_408
    assert (plain.start_id, plain.end_id, plain.mask_id, plain.special_ids) == (49_406, 49_407, None, (49_406, 49_407))
    assert (masked.mask_id, masked.special_ids) == (49_405, (49_405, 49_406, 49_407))
    ids = torch.tensor([0, 1, 49_404, 49_405, 49_406, 49_407])
    assert plain.is_word(ids).tolist() == [False, True, True, True, False, False]
    assert masked.is_word(ids).tolist() == [False, True, True, False, False, False]
    assert (plain.random_ids, masked.random_ids) == ((1, 49_406), (1, 49_405))
    assert masked.word_of(49_405) == MASK and plain.word_of(49_405) == "jekyll"
    shirt = plain.encode("shirt").ids
    assert [plain.word_of(token_id) for token_id in shirt] == ["shirt"] and plain.id_of("shirt</w>") == shirt[0]
    assert (masked.id_of("jekyll</w>"), plain.id_of("jekyll</w>"), masked.id_of(MASK)) == (None, 49_405, 49_405)
    with pytest.raises(IndexError, match="vocabulary clip has no entry 49408, expected 0 to 49407"):
        plain.word_of(49_408)


def test_the_word_that_gave_its_id_to_the_mask(plain: ClipTokens, masked: ClipTokens) -> None:
    text = "Jekyll met jekylls and Dr.Jekyll"
    assert plain.encode(text).ids.count(49_405) == 2
    pieces = masked.encode(text)
    assert 49_405 not in pieces.ids
    spelt = [(masked.word_of(token_id), text[start:end]) for token_id, (start, end) in zip(pieces.ids, pieces.offsets)]
    assert spelt[:3] == [("jeky", "Jeky"), ("ll", "ll"), ("met", "met")] and spelt[-2:] == [("jeky", "Jeky"), ("ll", "ll")]
    assert masked.decode(pieces.ids) == plain.decode(plain.encode(text).ids) == "jekyll met jekylls and dr . jekyll"
    others = [text for text in [*REALISTIC, *ODD] if 49_405 not in plain.encode(text).ids]
    assert all(masked.encode(text) == plain.encode(text) for text in others)


def test_offsets_spell_the_pieces(plain: ClipTokens, synthetic: list[str]) -> None:
    for text in [*REALISTIC, *synthetic[:200]]:
        pieces = plain.encode(text)
        for token_id, (start, end) in zip(pieces.ids, pieces.offsets, strict=True):
            assert text[start:end].lower() == plain.word_of(token_id)
        covered = {place for start, end in pieces.offsets for place in range(start, end)}
        assert covered == {place for place, sign in enumerate(text) if not sign.isspace()}


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("\u4e2d hat", ["\u4e2d", "\u4e2d", "hat"]),  # a character of two pieces
        ("it&#39;s &lt;b&gt; red", ["it", "&#39;s", "&lt;", "b", "&gt;", "red"]),
        ("\u00c3\u00a9 red", ["\u00c3\u00a9", "red"]),  # a broken "e" with an accent
        ("\u0130  x\ty", ["\u0130", "\u0130", "x", "y"]),  # two characters in lower case
        ("\ufb01t \u201cx\u201d", ["\ufb01t", "\u201c", "x", "\u201d"]),
        ("RED\n\n shirt ", ["RED", "shirt"]),
    ],
)
def test_offsets_of_a_text_that_is_repaired(plain: ClipTokens, text: str, spans: list[str]) -> None:
    assert [text[start:end] for start, end in plain.encode(text).offsets] == spans


def test_offsets_run_from_left_to_right(plain: ClipTokens) -> None:
    for text in [*ODD, *random_texts(500)]:
        offsets = plain.encode(text).offsets
        assert all(0 <= start < end <= len(text) for start, end in offsets)
        assert offsets == sorted(offsets)


def test_plain_texts_skip_the_repair_without_a_difference() -> None:
    clean = SimpleTokenizer().clean_fn
    for text in [*REALISTIC, *ODD, *random_texts(3000)]:
        assert normalise(text) == clean(text)


def test_round_trip(plain: ClipTokens, synthetic: list[str]) -> None:
    encoder = encoder_of(plain, cleaning="space")
    for text in [*REALISTIC, *synthetic[:200]]:
        ids = encoder.encode(text, "k").token_ids.tolist()
        assert plain.decode(ids) == encoder.clean(text)


def test_which_pieces_begin_a_word(plain: ClipTokens) -> None:
    pieces = plain.encode("a reddish-brown bagpack").ids
    words = [plain.word_of(token_id) for token_id in pieces]
    assert words == ["a", "reddish", "-", "brown", "bag", "pack"]
    assert plain.starts_words(pieces) == [True, True, True, True, True, False]
    assert plain.starts_words([]) == []


def test_chunks_are_aligned(plain: ClipTokens) -> None:
    encoder = CaptionEncoder(plain, max_words=0, max_tokens=TOKENS, cleaning="none", chunker=BuiltinChunker())
    encoded = encoder.encode("The man is with a T-shirt, Blue jeans and a reddish bagpack.", "k")
    spelt = list(zip(map(plain.word_of, encoded.token_ids.tolist()), encoded.chunk_ids.tolist(), strict=True))
    assert [word for word, chunk in spelt if chunk == 1] == ["blue", "jeans"]
    assert [word for word, chunk in spelt if chunk == 2] == ["reddish", "bag", "pack"]
    assert spelt[0] == ("<start_of_text>", 0) and spelt[-1] == ("<end_of_text>", 0)


def test_vacuous_words_are_marked(plain: ClipTokens) -> None:
    encoder = CaptionEncoder(plain, max_words=0, max_tokens=7, cleaning="none", chunker=None, mark_vacuous=True)
    encoded = encoder.encode("The man, and a red hat", "k")
    assert encoded.vacuous is not None and len(encoded.vacuous) == len(encoded.token_ids) == 7
    assert encoded.vacuous.tolist() == [False, True, False, False, True, True, False]  # start the man , and a end


def test_pickles(masked: ClipTokens) -> None:
    data = pickle.dumps(masked)
    again = pickle.loads(data)
    assert len(data) < 1000
    assert again.mask_id == masked.mask_id
    assert all(again.encode(text) == masked.encode(text) for text in ODD)


def test_faster_than_open_clip(plain: ClipTokens) -> None:
    theirs = SimpleTokenizer()

    def seconds(encode: Callable[[str], object]) -> float:
        start = time.perf_counter()
        for text in REALISTIC:
            encode(text)
        return time.perf_counter() - start

    # The fastest of many, in turns: other processes share the machine.
    times = [(seconds(plain.encode), seconds(theirs.encode)) for _ in range(50)]
    ours, whole = (min(column) for column in zip(*times, strict=True))
    assert ours < whole


def test_a_tokeniser_does_not_bring_what_training_has_no_use_for() -> None:
    """They cost every process of a run two seconds and more."""
    told = "import sys; from tbps.text.clip_tokens import ClipTokens; ClipTokens(with_mask=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert {"ftfy", "torch"} <= set(done.stdout.split())
    assert not {"open_clip", "torchvision", "transformers", "torch._dynamo"} & set(done.stdout.split())
