"""Reworded captions: what each operation may do, how often, by which words; files of synonyms."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tbps.config.rewording import Rewording
from tbps.text.rewording import Rewriter, read_synonyms

CAPTION = "a man in a red shirt and blue jeans carries one small black bag over his left shoulder while he walks"
WORDS = CAPTION.split()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kinds(rewriter: Rewriter, times: int = 400) -> Counter[str]:
    """How often each operation was seen, by what it did to the words."""
    found: Counter[str] = Counter()
    for seed in range(times):
        words = rewriter.reword(CAPTION, generator(seed)).split()
        if len(words) > len(WORDS):
            found["inserted"] += 1
        elif Counter(words) == Counter(WORDS):
            found["exchanged"] += 1
        elif len(words) < len(WORDS):
            found["deleted"] += 1
        else:
            found["replaced"] += 1
    return found


def test_three_operations_without_synonyms_four_with_them() -> None:
    found = kinds(Rewriter.of(Rewording()))
    # A deletion of nothing, 0.9 ** 20 of them, looks like an exchange.
    assert found["replaced"] == 0 and all(90 < found[kind] < 180 for kind in ("inserted", "exchanged", "deleted"))
    found = kinds(Rewriter(share=0.1, synonyms={"man": ("guy",), "bag": ("sack", "pouch"), "jeans": ("denims",)}))
    assert all(65 < found[kind] < 135 for kind in ("inserted", "exchanged", "deleted", "replaced"))


def test_what_each_operation_changes() -> None:
    rewriter = Rewriter(share=0.1, synonyms={"man": ("guy",), "a": ("one",)})
    count = int(0.1 * len(WORDS))
    assert count == 2
    for seed in range(50):
        replaced = rewriter._replace(WORDS, generator(seed))
        assert [new if new != old else "" for old, new in zip(WORDS, replaced, strict=True)][:4] == ["one", "guy", "", "one"]
        inserted = rewriter._insert(WORDS, generator(seed))
        assert Counter(inserted) - Counter(WORDS) in (
            Counter({"guy": 2}),
            Counter({"one": 2}),
            Counter({"guy": 1, "one": 1}),
        )
        rest = list(inserted)
        for word in (Counter(inserted) - Counter(WORDS)).elements():
            rest.remove(word)
        exchanged = rewriter._exchange(WORDS, generator(seed))
        moved = sum(old != new for old, new in zip(WORDS, exchanged, strict=True))
        assert Counter(exchanged) == Counter(WORDS) and moved <= 2 * count
    plain = Rewriter(share=0.1, synonyms={})
    assert set(plain._insert(WORDS, generator(1))) == set(WORDS)
    deleted = [len(WORDS) - len(plain._delete(WORDS, generator(seed))) for seed in range(500)]
    assert sum(deleted) / 500 == pytest.approx(0.1 * len(WORDS), abs=0.2)


def test_a_caption_never_becomes_empty_and_is_a_function_of_its_generator() -> None:
    rewriter = Rewriter(share=1.0, synonyms={})
    for seed in range(60):
        assert rewriter.reword("man", generator(seed)).split() in (["man"], ["man", "man"])
        assert rewriter._delete(WORDS, generator(seed))[0] in WORDS
        assert rewriter.reword(CAPTION, generator(seed)) == rewriter.reword(CAPTION, generator(seed))


def test_files_of_synonyms(tmp_path: Path) -> None:
    file = tmp_path / "synonyms.txt"
    file.write_text("man\tguy, fellow\n\nbag\tsack\n")
    assert read_synonyms(str(file)) == {"man": ("guy", "fellow"), "bag": ("sack",)}
    file.write_text("man\tguy\nbag sack\n")
    with pytest.raises(ValueError, match=r"line 2: found 'bag sack', expected a word, a tab and its synonyms"):
        Rewriter.of(Rewording(synonyms=str(file)))
    with pytest.raises(ValueError, match=r"nowhere.txt cannot be read .* or clear it"):
        read_synonyms(str(tmp_path / "nowhere.txt"))
