"""From the data settings of a run to its pairs and its caption encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from tbps.config.run import Captioning, Data
from tbps.data.annotation_cache import mapped_annotations
from tbps.data.captions import CaptionEncoder, clean_caption
from tbps.data.chunk_cache import ChunkCache, build_chunk_cache
from tbps.data.chunks import chunk_frequencies, make_chunker
from tbps.data.pairs import PairSource
from tbps.data.remote import PATIENCE_S, is_remote
from tbps.data.shard_index import INDEX_NAME, read_index
from tbps.data.vocabulary import Vocabulary, load_tokenizer

OnMain = Callable[[Callable[[], object]], object]
"""Calls a function on the first process and waits for it on the others."""


def splits_of(data: Data, *, patience_s: float = PATIENCE_S) -> tuple[str, ...]:
    """The splits that the data set at `data.root` has; see `open_pairs`."""
    root, cache = Path(data.root).expanduser(), Path(data.cache).expanduser()
    if is_remote(data.root):
        return tuple(read_index(data.root, cache=cache, patience_s=patience_s))
    if (root / INDEX_NAME).is_file():
        return tuple(read_index(str(root), cache=cache))
    return tuple(mapped_annotations(root, data.benchmark, cache=cache.parent / "annotations").splits)


def open_vocabulary(captioning: Captioning, *, size: int, cls_id: int, mask_id: int) -> Vocabulary:
    """The vocabulary, checked against the text encoder it is for.

    ValueError: another size, or [CLS] and [MASK] elsewhere than the text encoder was told.
    """
    vocabulary = load_tokenizer(captioning.vocabulary, expected_size=size)
    if (vocabulary.cls_id, vocabulary.mask_id) != (cls_id, mask_id):
        raise ValueError(
            f"vocabulary {captioning.vocabulary} has [CLS] {vocabulary.cls_id} and [MASK] {vocabulary.mask_id}, expected"
            f" {cls_id} and {mask_id}; set --method.bert.cls-id and --method.bert.mask-id to the vocabulary's"
        )
    return vocabulary


def training_encoder(
    source: PairSource,
    captioning: Captioning,
    vocabulary: Vocabulary,
    *,
    chunks: bool,
    weigh_chunks: bool,
    mark_vacuous: bool = False,
    cache: Path,
    on_main: OnMain,
) -> CaptionEncoder:
    """The encoder for training captions.

    With `chunks`, the attribute chunks of the whole corpus are found once and kept in `cache`, by the first process while
    the others wait; `weigh_chunks` adds the weights of MARS Eq. 14 from the corpus. `mark_vacuous` marks the words that
    say nothing of a person (AGA).
    """
    chunker: ChunkCache | None = None
    frequencies = None
    if chunks:
        found_by = make_chunker(captioning.chunker)
        rule = f"{found_by.name}|{captioning.max_words}|{captioning.punctuation}|{len(source)}|{source.key(0)}"
        path = cache / f"chunks-{hashlib.sha256(rule.encode()).hexdigest()[:16]}.npz"

        def texts() -> list[str]:
            cleaned = (
                clean_caption(source.caption(pair), max_words=captioning.max_words, punctuation=captioning.punctuation)
                for pair in range(len(source))
            )
            return list(dict.fromkeys(cleaned))

        on_main(lambda: len(build_chunk_cache(texts(), found_by, path)))
        chunker = ChunkCache(found_by, path=path)
        frequencies = chunk_frequencies(texts(), chunker) if weigh_chunks else None
    return CaptionEncoder(
        vocabulary,
        max_words=captioning.max_words,
        max_tokens=captioning.training_tokens,
        punctuation=captioning.punctuation,
        chunker=chunker,
        frequencies=frequencies,
        mark_vacuous=mark_vacuous,
    )


def evaluation_encoder(
    captioning: Captioning, vocabulary: Vocabulary, *, chunks: bool = False, mark_vacuous: bool = False
) -> CaptionEncoder:
    """The encoder for queries: no chunks are needed. `mark_vacuous`: as in `training_encoder`, for AGA's report."""
    return CaptionEncoder(
        vocabulary,
        max_words=captioning.max_words,
        max_tokens=captioning.max_tokens,
        punctuation=captioning.punctuation,
        chunker=make_chunker(captioning.chunker) if chunks else None,
        mark_vacuous=mark_vacuous,
    )
