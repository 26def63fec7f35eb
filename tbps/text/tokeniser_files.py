"""What others need to make the same tokens: files of a tokeniser, and what its ids mean.

`tbps export` writes them; `tbps/convert/search_script.py` reads them without any library.
"""

from __future__ import annotations

from typing import Any

from tbps.text.clip_tokens import ClipTokens
from tbps.text.tokeniser import Tokeniser
from tbps.text.word_pieces import WordPieces

VOCABULARY_FILE = "vocab.txt"
"""One word piece a line: BERT's own form."""
TOKENISER_FILE = "tokenizer.json"
"""Word pieces that are not cut as BERT's, in the form of the tokenizers library."""
MERGES_FILE = "merges.txt"
"""CLIP's pairs in the order in which they are joined, one a line: the two parts with a space between them."""


def tokeniser_files(tokeniser: Tokeniser) -> tuple[dict[str, str], dict[str, Any]]:
    """Files by name, and a description as plain JSON values: `kind` (`word-pieces`, `byte-pairs` or `own`) and ids.

    kind `own`: a method's own tokeniser, or word pieces that are not cut as BERT's: its library alone makes them.
    """
    told: dict[str, Any] = {
        "kind": "own",
        "size": tokeniser.size,
        "start_id": tokeniser.start_id,
        "end_id": tokeniser.end_id,
        "pad_id": tokeniser.pad_id,
    }
    if isinstance(tokeniser, WordPieces):
        if tokeniser.cuts_as_bert:
            files = {VOCABULARY_FILE: "\n".join(tokeniser.words()) + "\n"}
            return files, told | {"kind": "word-pieces", "file": VOCABULARY_FILE, "unknown_id": tokeniser.unk_id}
        return {TOKENISER_FILE: tokeniser.to_json()}, told | {"file": TOKENISER_FILE}
    if isinstance(tokeniser, ClipTokens):
        merges = "".join(f"{left} {right}\n" for left, right in tokeniser.merges())
        return {MERGES_FILE: merges}, told | {"kind": "byte-pairs", "file": MERGES_FILE, "mask_id": tokeniser.mask_id}
    return {}, told
