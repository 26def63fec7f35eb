"""From the data settings of a run to its pairs and its caption encoder."""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tbps.config.data import Captioning, Data
from tbps.data.annotation_cache import mapped_annotations
from tbps.data.chunk_sharing import Team, share_chunks
from tbps.data.chunk_store import ChunkStore, JoinedChunks, KeptChunks, num_portions
from tbps.data.mixture import MixedPairs
from tbps.data.pairs import PairSource
from tbps.data.remote import PATIENCE_S, is_remote
from tbps.data.shard_chunks import kept_beside_shards
from tbps.data.shard_index import INDEX_NAME, read_index
from tbps.data.shards import ShardPairs
from tbps.text.captions import CaptionEncoder
from tbps.text.chunks import chunk_frequencies, make_chunker
from tbps.text.cleaning import clean_caption
from tbps.text.tokeniser import Tokeniser

logger = logging.getLogger(__name__)


def splits_of(data: Data, *, patience_s: float = PATIENCE_S) -> tuple[str, ...]:
    """The splits that the data set at `data.root` has; see `open_pairs`."""
    root, cache = Path(data.root).expanduser(), Path(data.cache).expanduser()
    if is_remote(data.root):
        return tuple(read_index(data.root, cache=cache, patience_s=patience_s))
    if (root / INDEX_NAME).is_file():
        return tuple(read_index(str(root), cache=cache))
    return tuple(mapped_annotations(root, data.benchmark, cache=cache.parent / "annotations").splits)


def agree_on_chunker(captioning: Captioning, team: Team) -> Captioning:
    """The settings with `chunker_name` filled in: every process calls this.

    ValueError: a process lacks the chunker or has another version than the others, or than the settings name.
    """
    found = team.together(
        lambda: (make_chunker(captioning.chunker).name, platform.node()), doing="looking for the finder of attribute chunks"
    )
    if len({name for name, _ in found}) > 1:
        hosts = {name: sorted({host for other, host in found if other == name}) for name, _ in found}
        whose = " and by ".join(f"{name} on {', '.join(where)}" for name, where in hosts.items())
        raise ValueError(
            f"attribute chunks would be found by {whose}, expected one finder for all processes; install the same"
            " on all machines, or set --data.captioning.chunker builtin"
        )
    name = found[0][0]
    if captioning.chunker_name not in ("", name):
        raise ValueError(
            f"attribute chunks would be found by {name} on {found[0][1]}, expected {captioning.chunker_name};"
            " install that, or change --data.captioning.chunker-name"
        )
    return replace(captioning, chunker_name=name)


def training_encoder(
    source: PairSource,
    data: Data,
    tokeniser: Tokeniser,
    *,
    chunks: bool,
    weigh_chunks: bool,
    mark_vacuous: bool = False,
    team: Team,
    patience_s: float = PATIENCE_S,
) -> CaptionEncoder:
    """The encoder for training captions. Every process of `team` calls this.

    With `chunks`, the attribute chunks of the whole corpus are looked up: what the shards do not bring and `data.cache` does
    not hold is found first; `weigh_chunks` adds the weights of MARS Eq. 14 from the corpus. `mark_vacuous` marks the words
    that say nothing of a person (AGA). patience_s: seconds in which a server may send nothing.
    """
    kept = _all_kept_chunks(source, data, team, patience_s) if chunks else None
    return CaptionEncoder(
        tokeniser,
        max_words=data.captioning.max_words,
        max_tokens=data.captioning.training_tokens,
        cleaning=data.captioning.cleaning,
        chunker=kept,
        frequencies=chunk_frequencies(kept.counts()) if kept is not None and weigh_chunks else None,
        mark_vacuous=mark_vacuous,
    )


def _all_kept_chunks(source: PairSource, data: Data, team: Team, patience_s: float) -> KeptChunks | JoinedChunks:
    """Those of each data set of a mixture, found once for it wherever it is mixed in."""
    if not isinstance(source, MixedPairs):
        return _kept_chunks(source, data, team, patience_s)
    return JoinedChunks([_kept_chunks(part.pairs, data, team, patience_s) for part in source.parts])


def _kept_chunks(source: PairSource, data: Data, team: Team, patience_s: float) -> KeptChunks:
    chunker, cleaning = make_chunker(data.captioning.chunker), data.captioning.cleaning
    logger.info("attribute chunks are those of %s (chunker = %s)", chunker.name, data.captioning.chunker)
    cache = Path(data.cache).expanduser()
    if isinstance(source, ShardPairs) and not data.limit_pairs:
        brought: list[KeptChunks | None] = []

        def look() -> bool:
            kept = kept_beside_shards(source, found_by=chunker.name, cleaning=cleaning, cache=cache, patience_s=patience_s)
            brought.append(kept)
            return brought[0] is not None

        if all(team.together(look, doing="opening the attribute chunks of the shards")) and brought[0] is not None:
            return brought[0]
    corpus = f"{chunker.name}|{cleaning}|{len(source)}|{source.captions_digest()}"
    folder = cache.parent / "chunks" / hashlib.sha256(corpus.encode()).hexdigest()[:16]
    store = ChunkStore(folder, portions=num_portions(len(source)))

    def captions() -> Iterator[str]:
        for pair in range(len(source)):
            yield clean_caption(source.caption(pair), cleaning=cleaning)

    share_chunks(store, captions, chunker, team)
    return KeptChunks(store.files, name=chunker.name)


def evaluation_encoder(
    captioning: Captioning, tokeniser: Tokeniser, *, chunks: bool = False, mark_vacuous: bool = False
) -> CaptionEncoder:
    """The encoder for queries: no chunks are needed. `chunks` and `mark_vacuous` are for the report of LAIP and AGA."""
    chunker = make_chunker(captioning.chunker) if chunks else None
    if chunker is not None and captioning.chunker_name not in ("", chunker.name):
        logger.warning(
            "phrases are found by %s for the report, in training they were by %s", chunker.name, captioning.chunker_name
        )
    return CaptionEncoder(
        tokeniser,
        max_words=captioning.max_words,
        max_tokens=captioning.max_tokens,
        cleaning=captioning.cleaning,
        chunker=chunker,
        mark_vacuous=mark_vacuous,
    )


def announce_cut_captions(source: PairSource, encoder: CaptionEncoder) -> None:
    """Say how many training captions are longer than the encoder's cap, judged by a sample spread over the corpus."""
    looked_at = range(0, len(source), max(1, len(source) // 1000))
    cut = sum(encoder.encode(source.caption(pair), source.key(pair)).is_cut for pair in looked_at)
    if cut:
        logger.warning(
            "about %.1f %% of the training captions (%d of %d looked at) are longer than %s%d tokens; their ends are"
            " not read",
            100 * cut / len(looked_at),
            cut,
            len(looked_at),
            f"{encoder.max_words} words or " if encoder.max_words else "",
            encoder.max_tokens,
        )
