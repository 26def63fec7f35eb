"""Find people in a folder of pictures by a sentence: python search.py FOLDER "a woman in a red coat"

It lies in the folder of an exported model and needs numpy, onnxruntime and pillow, nothing else. Every picture is embedded
anew in each call; for many pictures keep what `embed_pictures` gives. It cuts sentences into tokens itself, as the model was
trained, but for one thing: for CLIP's models, text whose encoding was broken before is not repaired.
"""

from __future__ import annotations

import argparse
import html
import itertools
import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent
MOST_PIXELS = 89_478_485
MOST_CHARACTERS = 100
"""Word pieces: a longer word is unknown."""
BATCH = 32

# -- sentences -------------------------------------------------------------------------------------------------------------

PUNCTUATION = ",.'!?\"()*#:;~"
DELETE = str.maketrans(dict.fromkeys(PUNCTUATION, "") | {"-": " ", "/": " "})
SPACE = str.maketrans(dict.fromkeys(PUNCTUATION, " ") | {"-": " ", "/": " ", "`": " ", "\u201c": " ", "\u201d": " "})
WIDTHS = {code: unicodedata.normalize("NFKC", chr(code)) for code in (0x3000, *range(0xFF01, 0xFFF0))}
QUOTES = dict.fromkeys((0x02BC, *range(0x2018, 0x201C)), "'") | dict.fromkeys(range(0x201C, 0x2020), '"')
LIGATURES = {code: unicodedata.normalize("NFKC", chr(code)) for code in (0x132, 0x133, 0x149, *range(0xFB00, 0xFB07))}
CONTROLS = dict.fromkeys((*range(9), 0xB, *range(0xE, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF))
SHORT_ENDINGS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def clean(sentence: str, cleaning: str) -> list[str]:
    """The words of a sentence by the model's rule: `space`, `delete` or `none`."""
    if cleaning == "none":
        return sentence.split()
    text = sentence.lower()
    if cleaning == "space":
        text = text.replace("\u2018", "'").replace("\u2019", "'")
        inner = [
            sign == "'" and 0 < place < len(text) - 1 and _word_sign(text[place - 1]) and _word_sign(text[place + 1])
            for place, sign in enumerate(text)
        ]
        text = "".join(sign for sign, inside in zip(text, inner) if not inside).translate(SPACE)
    else:
        text = text.translate(DELETE)
    return text.replace("<person>", "person").split()


def _word_sign(sign: str) -> bool:
    return sign.isalnum() or sign == "_"


class WordPieces:
    """BERT's word pieces: lower case, no accents, cut at spaces and punctuation, then the longest pieces that are known."""

    def __init__(self, told: dict[str, Any], folder: Path) -> None:
        lines = (folder / told["file"]).read_text(encoding="utf-8").split("\n")
        self.ids = {word: number for number, word in enumerate(lines[:-1])}
        self.unknown: int = told["unknown_id"]

    def encode(self, text: str) -> list[int]:
        """Ids of the pieces of a cleaned text."""
        return [token_id for word in self._words(text) for token_id in self._pieces(word)]

    def _words(self, text: str) -> list[str]:
        spaced = "".join(self._spaced(sign) for sign in text)
        plain = "".join(sign for sign in unicodedata.normalize("NFD", spaced) if unicodedata.category(sign) != "Mn")
        parted = "".join(f" {sign} " if _is_punctuation(sign) else sign for sign in plain.lower())
        return parted.split()

    @staticmethod
    def _spaced(sign: str) -> str:
        code = ord(sign)
        if sign in "\t\n\r" or unicodedata.category(sign) == "Zs":
            return " "
        if code in (0, 0xFFFD) or unicodedata.category(sign) in ("Cc", "Cf", "Cn", "Co"):
            return ""
        chinese = 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x2A6DF
        chinese |= 0x2A700 <= code <= 0x2CEAF or 0xF900 <= code <= 0xFAFF or 0x2F800 <= code <= 0x2FA1F
        return f" {sign} " if chinese else sign

    def _pieces(self, word: str) -> list[int]:
        if len(word) > MOST_CHARACTERS:
            return [self.unknown]
        found: list[int] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if mark + word[start:end] in self.ids)
            end = next(ends, 0)
            if not end:
                return [self.unknown]
            found.append(self.ids[mark + word[start:end]])
            start = end
        return found


def _is_punctuation(sign: str) -> bool:
    ascii_sign = 33 <= ord(sign) <= 126 and not sign.isalnum()
    return ascii_sign or unicodedata.category(sign).startswith("P")


class BytePairs:
    """CLIP's byte pairs."""

    def __init__(self, told: dict[str, Any], folder: Path) -> None:
        lines = (folder / told["file"]).read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines[:-1]]
        self.ranks = {merge: rank for rank, merge in enumerate(merges)}
        self.sign_of = _signs_of_bytes()
        signs = list(self.sign_of.values())
        entries = [*signs, *(f"{sign}</w>" for sign in signs), *("".join(merge) for merge in merges)]
        self.ids = {entry: number for number, entry in enumerate(entries)}
        self.last = merges[-1] if told["mask_id"] is not None else None
        self.special = {"<start_of_text>": told["start_id"], "<end_of_text>": told["end_id"]}

    def encode(self, text: str) -> list[int]:
        """Ids of the pieces of a text; its case, its quotes and its HTML are put right first."""
        text = text.translate(LIGATURES).translate(WIDTHS).translate(QUOTES).translate(CONTROLS)
        text = html.unescape(html.unescape(unicodedata.normalize("NFC", text)))
        words = [part for word in text.lower().split() for part in self._parts(word)]
        return [token_id for word in words for token_id in self._pieces(word)]

    def _parts(self, word: str) -> Iterable[str]:
        """A word cut into letters, single digits and other signs."""
        place = 0
        while place < len(word):
            rest = word[place:]
            begun = next((text for text in (*self.special, *SHORT_ENDINGS) if rest.startswith(text)), "")
            kind = _kind(word[place])
            end = place + (len(begun) or 1)
            if not begun and kind != "N":
                while end < len(word) and _kind(word[end]) == kind:
                    end += 1
            yield word[place:end]
            place = end

    def _pieces(self, word: str) -> list[int]:
        if word in self.special:
            return [self.special[word]]
        pieces = [self.sign_of[byte] for byte in word.encode()]
        pieces[-1] += "</w>"
        while len(pieces) > 1:
            pairs = list(itertools.pairwise(pieces))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks or best == self.last:
                break
            joined: list[str] = []
            for piece in pieces:
                if joined and (joined[-1], piece) == best:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            pieces = joined
        return [self.ids[piece] for piece in pieces]


def _kind(sign: str) -> str:
    """L, N or other."""
    category = unicodedata.category(sign)[0]
    return category if category in "LN" else "other"


def _signs_of_bytes() -> dict[int, str]:
    """A sign that can be printed for each byte: itself, or one beyond the first 256."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in sorted(printed)} | {byte: chr(256 + place) for place, byte in enumerate(others)}


# -- the model -------------------------------------------------------------------------------------------------------------


class Model:
    """Both encoders of an exported model, its tokens and its preprocessing."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "preprocessing.json").read_text(encoding="utf-8"))
        self.image, self.caption = told["image"], told["caption"]
        tokens = self.caption["tokeniser"]
        self.cut = (WordPieces if tokens["kind"] == "word-pieces" else BytePairs)(tokens, folder).encode
        self.encoders = [
            onnxruntime.InferenceSession(str(folder / name), providers=onnxruntime.get_available_providers())
            for name in ("image_encoder.onnx", "caption_encoder.onnx")
        ]

    def token_ids(self, sentence: str) -> list[int]:
        """Ids of a sentence, from start to end. ValueError: it holds no word."""
        words = clean(sentence, self.caption["cleaning"])
        pieces = self.cut(" ".join(words[: self.caption["max_words"] or None]))
        if not pieces:
            raise ValueError(f"the sentence {sentence[:80]!r} holds no word; write a description")
        told = self.caption["tokeniser"]
        end = [] if told["end_id"] is None else [told["end_id"]]
        return [told["start_id"], *pieces[: self.caption["max_tokens"] - 1 - len(end)], *end]

    def embed_sentences(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """(sentences, features), each row of length 1."""
        ids = [self.token_ids(sentence) for sentence in sentences]
        rows = np.zeros((len(ids), max(map(len, ids))), np.int64)
        for row, tokens in zip(rows, ids):
            row[: len(tokens)] = tokens
        lengths = np.array([len(tokens) for tokens in ids])
        found: NDArray[np.float32] = self.encoders[1].run(None, {"token_ids": rows, "lengths": lengths})[0]
        return found

    def pixels(self, path: Path) -> NDArray[np.uint8]:
        """(3, height, width) of a picture, resized. It raises whatever a damaged file leads PIL to."""
        with Image.open(path) as image:
            if not 0 < image.width * image.height <= MOST_PIXELS:
                raise ValueError(f"it claims {image.width} x {image.height} pixels")
            if image.mode.startswith("I;16") and image.format == "PNG":
                picture = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            elif image.mode.startswith(("I", "F")):
                raise ValueError(f"nothing says which value is white in mode {image.mode}")
            else:
                picture = image.convert("RGB")
        size = (self.image["width"], self.image["height"])
        resized = picture.resize(size, Image.Resampling[self.image["interpolation"].upper()])
        return np.asarray(resized).transpose(2, 0, 1)

    def embed_pictures(self, paths: Sequence[Path]) -> tuple[NDArray[np.float32], list[Path], dict[Path, str]]:
        """(pictures, features) of those that can be read, which those are, and of the others why not."""
        rows: list[NDArray[np.float32]] = []
        read: list[Path] = []
        refused: dict[Path, str] = {}
        for start in range(0, len(paths), BATCH):
            pixels = []
            for path in paths[start : start + BATCH]:
                try:
                    pixels.append(self.pixels(path))
                    read.append(path)
                except Exception as error:  # decoders raise anything on a damaged file
                    refused[path] = str(error) or type(error).__name__
            if pixels:
                rows.append(self.encoders[0].run(None, {"pixels": np.stack(pixels)})[0])
        return np.concatenate(rows) if rows else np.zeros((0, 1), np.float32), read, refused


def printed(text: object) -> str:
    """A file's name without signs that a terminal would act on."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(text))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="pictures, each of one person; folders below count too")
    parser.add_argument("sentence", help="who is looked for")
    parser.add_argument("--best", type=int, default=10, help="how many to print (default: 10)")
    given = parser.parse_args(arguments)
    try:
        model = Model(HERE)
        query = model.embed_sentences([given.sentence])[0]
        rows, read, refused = model.embed_pictures(sorted(path for path in given.folder.rglob("*") if path.is_file()))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"search.py: {error}\n")
        return 2
    if not read:
        sys.stderr.write(f"search.py: {printed(given.folder)} holds no picture that can be read; check the path\n")
        return 2
    if refused:
        some = "; ".join(f"{printed(path)} ({printed(why)})" for path, why in list(refused.items())[:3])
        sys.stderr.write(f"search.py: {len(refused)} of {len(read) + len(refused)} files cannot be read: {some}\n")
    similarity = rows @ query
    for place in np.argsort(-similarity, kind="stable")[: given.best]:
        sys.stdout.write(f"{similarity[place]:.4f}  {printed(read[place])}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
