"""A caption with some other words: synonyms, insertions, exchanges or deletions ("easy data augmentation").

Wei and Zou, arXiv 1901.11196; Shuyu-XJTU/APTM trains on such a copy beside each caption. Its synonyms are WordNet's; ours
are those of a file, and without one no word is replaced, and what is inserted repeats a word of the caption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tbps.config.rewording import Rewording


@dataclass(frozen=True, kw_only=True)
class Rewriter:
    """Rewords captions. Picklable."""

    share: float
    """Share of the words that an operation changes."""
    synonyms: Mapping[str, tuple[str, ...]]
    """Of some words; empty = no word is replaced."""

    @classmethod
    def of(cls, settings: Rewording) -> Rewriter:
        """By a method's settings. ValueError: the file of synonyms cannot be read."""
        return cls(share=settings.share, synonyms=read_synonyms(settings.synonyms) if settings.synonyms else {})

    def reword(self, caption: str, generator: torch.Generator) -> str:
        """One of the operations, drawn uniformly, on a caption of at least one word; the result has at least one too.

        n = max(1, floor(share * words)) words are replaced by synonyms, or inserted, or pairs of words exchanged; or each
        word is deleted with probability `share`, and a caption of which nothing would be left keeps one word.
        """
        words = caption.split()
        operations = [self._insert, self._exchange, self._delete] + ([self._replace] if self.synonyms else [])
        return " ".join(operations[_number(len(operations), generator)](words, generator))

    def _changes(self, words: list[str]) -> int:
        return max(1, int(self.share * len(words)))

    def _replace(self, words: list[str], generator: torch.Generator) -> list[str]:
        """So many different words, wherever they stand, by a synonym each."""
        known = sorted({word for word in words if word in self.synonyms})
        chosen = [known[place] for place in torch.randperm(len(known), generator=generator)[: self._changes(words)].tolist()]
        new = {word: self._synonym(word, generator) for word in chosen}
        return [new.get(word, word) for word in words]

    def _insert(self, words: list[str], generator: torch.Generator) -> list[str]:
        """Synonyms of words of the caption, or these words again, at random places."""
        out = list(words)
        for _ in range(self._changes(words)):
            known = [word for word in out if word in self.synonyms] or out
            new = self._synonym(known[_number(len(known), generator)], generator)
            out.insert(_number(len(out) + 1, generator), new)
        return out

    def _exchange(self, words: list[str], generator: torch.Generator) -> list[str]:
        out = list(words)
        for _ in range(self._changes(words) if len(words) > 1 else 0):
            one, other = torch.randperm(len(out), generator=generator)[:2].tolist()
            out[one], out[other] = out[other], out[one]
        return out

    def _delete(self, words: list[str], generator: torch.Generator) -> list[str]:
        keep = (torch.rand(len(words), generator=generator) >= self.share).tolist()
        left = [word for word, kept in zip(words, keep, strict=True) if kept]
        return left or [words[_number(len(words), generator)]]

    def _synonym(self, word: str, generator: torch.Generator) -> str:
        """One of its synonyms; the word itself where there is none."""
        found = self.synonyms.get(word, (word,))
        return found[_number(len(found), generator)]


def read_synonyms(path: str) -> dict[str, tuple[str, ...]]:
    """Lines of a word, a tab, and its synonyms separated by commas. ValueError names the line that is not so."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"method.rewording.synonyms {path} cannot be read ({error}), expected a text file in UTF-8; check the path, or"
            " clear it to reword without synonyms"
        ) from error
    synonyms: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, start=1):
        word, _, rest = line.partition("\t")
        found = tuple(part.strip() for part in rest.split(",") if part.strip())
        if line.strip() and not (word.strip() and found):
            raise ValueError(
                f"method.rewording.synonyms {path}, line {number}: found {line[:60]!r}, expected a word, a tab and its"
                " synonyms separated by commas; correct it"
            )
        if line.strip():
            synonyms[word.strip()] = found
    return synonyms


def _number(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))
