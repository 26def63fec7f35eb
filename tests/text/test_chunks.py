import importlib.util
import pickle
import sys
from pathlib import Path

import pytest
import spacy
from spacy.tokens import Doc

from tbps.text.chunks import (
    BuiltinChunker,
    Chunker,
    SpacyChunker,
    chunk_frequencies,
    chunk_spans,
    chunk_weight,
    content_words,
    make_chunker,
)
from tbps.text.cleaning import clean_caption


def chunks_of(chunker: Chunker, caption: str) -> list[str]:
    (words,) = chunker.words([caption])
    return [" ".join(caption[start:end] for start, end in chunk) for chunk in chunk_spans(words)]


REALISTIC = [
    (
        "The man is wearing a dark blue jacket with a white striped shirt, black pants and white sneakers.",
        ["dark blue jacket", "white striped shirt", "black pants", "white sneakers"],
    ),
    (
        "A woman with long brown hair is wearing a long sleeved striped shirt, dark blue jeans and black and white shoes.",
        ["long brown hair", "long sleeved striped shirt", "dark blue jeans", "black white shoes"],
    ),
    (
        "She has shoulder-length black hair and wears a sleeveless white dress with a floral print.",
        ["shoulder length black hair", "sleeveless white dress", "floral print"],
    ),
    (
        "This person is wearing a light gray t-shirt, a pair of khaki cargo shorts and running shoes.",
        ["light gray t shirt", "khaki cargo shorts"],
    ),
    (
        "An Asian man wears a long sleeve white button-up shirt, and carries a red and white plastic bag in his right hand.",
        ["asian man", "long sleeve white button shirt", "red white plastic bag", "right hand"],
    ),
    ("His hair is in a short ponytail.The shirt is white and blue jeans are tight.", ["short ponytail", "blue jeans"]),
    (
        "a young female wears a black knee length skirt, purple high heels, and is holding a cell phone.",
        ["young female", "black knee length skirt", "purple high heels"],
    ),
    (
        "The middle-aged man wears thick rimmed glasses and gray sweatpants with white stripes down the side.",
        ["middle aged man", "thick rimmed glasses", "gray sweatpants", "white stripes"],
    ),
    ("He was wearing a red shirt black pants and yellow slippers.", ["red shirt", "black pants", "yellow slippers"]),
    (
        "The woman has a black V-neck sweater over a greenish blouse and maroon corduroy trousers",
        ["black v neck sweater", "greenish blouse", "maroon corduroy trousers"],
    ),
    ("A pedestrian with a multi-colored tote bag over her left shoulder", ["multi colored tote bag", "left shoulder"]),
    ("A girl in denim jeans and flip flops", []),
    # A word of no list, between an adjective and a noun.
    (
        "black flip flops, white gym shoes and a black cell phone",
        ["black flip flops", "white gym shoes", "black cell phone"],
    ),
    ("a fanny pack and a large duffle bag", ["fanny pack", "large duffle bag"]),
    ("a beige pashmina shawl, his grey polo helmet", ["beige pashmina shawl", "grey polo helmet"]),
    # Behind one, where no noun follows.
    ("beside a red and grey chair, with a brown leather zither case", ["red grey chair", "brown leather zither case"]),
    ("he holds a blue frisbee golf disc", ["blue frisbee golf disc"]),
    # Shades of colours.
    ("a hip length black sweater and a royal blue jacket", ["hip length black sweater", "royal blue jacket"]),
    (
        "sky blue jeans, an off white top and dark navy blue socks",
        ["sky blue jeans", "off white top", "dark navy blue socks"],
    ),
    (
        "a marigold yellow dress; grey slip on shoes; flat white shoes",
        ["marigold yellow dress", "grey slip shoes", "flat white shoes"],
    ),
    # Verbs, adverbs and predicates are no nouns.
    ("A man in black walks away; she dressed in white carries a bag", []),
    ("his hair is black and he pushes a cart. She is in blue jogging past. It looks red today", []),
    ("he is dressed in black and she wears white", []),
]


@pytest.mark.parametrize(("caption", "expected"), REALISTIC)
def test_builtin_on_realistic_captions(caption: str, expected: list[str]) -> None:
    assert chunks_of(BuiltinChunker(), clean_caption(caption, cleaning="space")) == expected


@pytest.mark.parametrize("caption", ["", "the and of with in", "and", "he is running", "black", "shirt", "qwrt zxcv"])
def test_builtin_finds_no_chunk(caption: str) -> None:
    assert chunks_of(BuiltinChunker(), caption) == []


def test_builtin_on_five_hundred_words() -> None:
    assert chunks_of(BuiltinChunker(), " ".join(["a", "black", "shirt", "and", "with"] * 100)) == ["black shirt"] * 100
    assert chunks_of(BuiltinChunker(), " ".join(["black"] * 500)) == []


def test_builtin_judges_unknown_words_by_their_ending() -> None:
    assert chunks_of(BuiltinChunker(), "a purplish cowlcoat and a paisleyed shirt") == [
        "purplish cowlcoat",
        "paisleyed shirt",
    ]
    assert chunks_of(BuiltinChunker(), "he carried bags") == []


def test_builtin_tells_content_words_outside_chunks() -> None:
    (words,) = BuiltinChunker().words(["a man in a red shirt"])
    assert words == ((2, 5, 0), (11, 14, 1), (15, 20, 1))


def parsed(words: str, pos: str, heads: list[int], deps: str) -> Doc:
    return Doc(spacy.blank("en").vocab, words=words.split(), pos=pos.split(), heads=heads, deps=deps.split())


def test_rule_on_noun_chunks_of_spacy() -> None:
    doc = parsed(
        "alice wears the dark blue jeans , a shirt and two black and white shoes",
        "PROPN VERB DET ADJ ADJ NOUN PUNCT DET NOUN CCONJ NUM ADJ CCONJ ADJ NOUN",
        [1, 1, 5, 4, 5, 1, 5, 8, 5, 8, 14, 14, 11, 11, 8],
        "nsubj ROOT det amod amod dobj punct det conj cc nummod amod cc conj conj",
    )
    text = doc.text
    words = content_words(doc, doc.noun_chunks)
    assert [[text[s:e] for s, e in chunk] for chunk in chunk_spans(words)] == [
        ["dark", "blue", "jeans"],
        ["black", "white", "shoes"],
    ]
    assert [text[word.start : word.end] for word in words if not word.chunk] == ["shirt"]


def test_rule_leaves_out_proper_nouns_and_single_words() -> None:
    # The adjective and "levis" are one noun chunk, but only the adjective is collected.
    doc = parsed("blue levis and cotton shirt", "ADJ PROPN CCONJ NOUN NOUN", [1, 1, 1, 4, 1], "amod ROOT cc compound conj")
    assert [chunk.text for chunk in doc.noun_chunks] == ["blue levis", "cotton shirt"]
    assert chunk_spans(content_words(doc, doc.noun_chunks)) == []


MODEL = """
import spacy
from spacy.language import Language

@Language.component("toy_tagger")
def toy_tagger(doc):
    for token in doc:
        token.pos_ = {"red": "ADJ", "old": "ADJ", "coat": "NOUN"}.get(token.text, "X")
        token.dep_ = "amod" if token.pos_ == "ADJ" else "dobj" if token.pos_ == "NOUN" else "dep"
    for token in doc:
        token.head = next((t for t in doc[token.i:] if t.pos_ == "NOUN"), token) if token.pos_ == "ADJ" else token
    return doc

def load(**options):
    assert "ner" in options["exclude"]
    nlp = spacy.blank("en")
    nlp.add_pipe("toy_tagger")
    return nlp
"""


@pytest.fixture
def toy_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed spaCy model package, whose tagger knows three words."""
    (tmp_path / "xx_toy_sm").mkdir()
    (tmp_path / "xx_toy_sm" / "__init__.py").write_text(MODEL)
    (tmp_path / "xx_toy_sm-1.2.3.dist-info").mkdir()
    (tmp_path / "xx_toy_sm-1.2.3.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: xx_toy_sm\nVersion: 1.2.3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "xx_toy_sm", raising=False)
    return "xx_toy_sm"


def test_spacy_chunker_loads_an_installed_model(toy_model: str) -> None:
    chunker = SpacyChunker(toy_model)
    assert chunker.name.startswith("xx_toy_sm 1.2.3, spacy 3.")
    assert chunks_of(chunker, "he has an old red coat and red") == ["old red coat"]
    assert [len(words) for words in chunker.words(["", "red coat", "no"])] == [0, 2, 0]
    assert chunks_of(pickle.loads(pickle.dumps(chunker)), "a red coat") == ["red coat"]


def test_missing_model_tells_how_to_install_it() -> None:
    with pytest.raises(
        ValueError, match=r'en_core_web_absent is not installed.*run "python -m spacy download en_core_web_absent"'
    ):
        SpacyChunker("en_core_web_absent")


def test_make_chunker() -> None:
    installed = importlib.util.find_spec("en_core_web_sm") is not None
    assert isinstance(make_chunker("builtin"), BuiltinChunker)
    assert isinstance(make_chunker("auto"), SpacyChunker if installed else BuiltinChunker)
    if not installed:
        with pytest.raises(
            ValueError, match='run "python -m spacy download en_core_web_sm" there or choose chunker "builtin"'
        ):
            make_chunker("spacy")


def test_builtin_chunker_pickles_after_use() -> None:
    chunker = BuiltinChunker()
    assert chunks_of(chunker, "a red coat") == ["red coat"]
    assert chunks_of(pickle.loads(pickle.dumps(chunker)), "a red coat") == ["red coat"]


def test_frequencies_are_shares_of_the_largest_count() -> None:
    counts = {"shirt": 2, "red": 3, "coat": 1, "black": 1}
    assert chunk_frequencies(counts, top=3) == {"red": 1.0, "shirt": 2 / 3, "black": 1 / 3}
    assert chunk_frequencies(counts) == {word: count / 3 for word, count in counts.items()}
    assert chunk_frequencies({}) == {}


def test_chunk_weight() -> None:
    alpha = {"red": 1.0, "shirt": 0.5}
    assert chunk_weight(["red", "shirt"], alpha) == pytest.approx(0.25)
    assert chunk_weight(["long", "red", "shirt"], alpha) == pytest.approx(0.5)
    assert chunk_weight(["long", "coat"], alpha) == 1.0
