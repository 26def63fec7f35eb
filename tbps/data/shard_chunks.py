"""Attribute chunks beside shards: found once by `tbps data chunks` (or `shard --chunks`), so that training finds none.

A shard folder then holds a folder of portions (see tbps/data/chunk_store.py) for each chunker and rule of cleaning, and
the index says under "chunks" by whom they were found, and the name, size and sha256 of each file, as of shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tbps.config.data import Cleaning
from tbps.data.chunk_store import ChunkStore, KeptChunks, num_portions
from tbps.data.remote import fetch, is_remote, join, sha256_of
from tbps.data.shard_index import StoredFile, read_content, splits_in, write_index
from tbps.data.shards import ShardPairs
from tbps.data.worker_pool import worker_pool
from tbps.text.chunks import ChunkerKind, make_chunker
from tbps.text.cleaning import clean_caption

logger = logging.getLogger(__name__)

SPLIT = "train"
"""The only one whose chunks training asks for."""


def add_chunks(root: Path, *, kind: ChunkerKind, cleaning: Cleaning = "space", workers: int = 1) -> str:
    """Find the chunks of the training captions of the shards in `root`, and keep them there; returns who found them.

    The same call again goes on where one was interrupted. ValueError: no shards, no training split, no such chunker.
    """
    source = ShardPairs(str(root), SPLIT, cache=root)
    rule = _rule(source, found_by=make_chunker(kind).name, cleaning=cleaning)
    digest = hashlib.sha256(json.dumps(rule, sort_keys=True).encode()).hexdigest()[:8]
    store = ChunkStore(root / f"{SPLIT}-chunks-{digest}", portions=num_portions(len(source)))
    missing = sorted(set(range(store.portions)) - store.held())
    logger.info(
        "finding attribute chunks (%s): %d of %d portions are missing", rule["found_by"], len(missing), store.portions
    )
    jobs = [(root, store, kind, cleaning, missing[first::workers]) for first in range(min(workers, len(missing)))]
    if len(jobs) > 1:
        with worker_pool(len(jobs)) as pool:
            list(pool.map(_find, jobs))
    else:
        for job in jobs:
            _find(job)
    content = read_content(str(root), cache=root)
    files = [dataclasses.asdict(StoredFile.of(file, below=root)) for file in store.files]
    others = [entry for entry in content.get("chunks", []) if not _is_of(entry, rule)]
    splits = splits_in(content, str(root))
    write_index(root, content["benchmark"], splits, chunks=[*others, {**rule, "files": files}])
    return rule["found_by"]


def kept_beside_shards(
    source: ShardPairs, *, found_by: str, cleaning: Cleaning, cache: Path, patience_s: float
) -> KeptChunks | None:
    """The chunks of the training captions that a shard folder or URL brings; None, in words, where it has others only."""
    root, rule = source.root, _rule(source, found_by=found_by, cleaning=cleaning)
    entries = read_content(root, cache=cache, patience_s=patience_s).get("chunks", [])
    for entry in entries:
        if _is_of(entry, rule):
            files = [StoredFile(**file) for file in entry["files"]]
            try:
                return KeptChunks([_local(root, file, cache=cache, patience_s=patience_s) for file in files], name=found_by)
            except ValueError as error:
                logger.warning("the shards' attribute chunks cannot be used, they are found anew: %s", error)
                return None
    if entries:
        brought = ", ".join(f"{entry['found_by']} (cleaning {entry['punctuation']})" for entry in entries)
        logger.warning(
            "the shards bring attribute chunks found by %s, but this run asks for those of its captions by %s (cleaning"
            " %s): they are found anew",
            brought,
            found_by,
            cleaning,
        )
    return None


def check_chunks(root: Path) -> list[str]:
    """Compare every file of chunks of a shard folder with its sha256 in the index; returns one line per problem."""
    problems = []
    for entry in read_content(str(root), cache=root).get("chunks", []):
        for file in (StoredFile(**file) for file in entry["files"]):
            if not (root / file.name).is_file():
                problems.append(f"chunks {file.name}: missing in {root}")
            elif sha256_of(root / file.name) != file.sha256:
                problems.append(f"chunks {file.name}: other content than the index says")
    return problems


def _rule(source: ShardPairs, *, found_by: str, cleaning: Cleaning) -> dict[str, str]:
    return {
        "captions": source.captions_digest(),
        "found_by": found_by,
        "punctuation": cleaning,
    }  # its name in indexes that exist


def _is_of(entry: Mapping[str, Any], rule: Mapping[str, str]) -> bool:
    return all(entry[name] == value for name, value in rule.items())


def _find(job: tuple[Path, ChunkStore, ChunkerKind, Cleaning, list[int]]) -> None:
    root, store, kind, cleaning, portions = job
    source = ShardPairs(str(root), SPLIT, cache=root)
    captions = (source.caption(pair) for pair in range(len(source)))
    store.find(portions, (clean_caption(caption, cleaning=cleaning) for caption in captions), make_chunker(kind))


def _local(root: str, file: StoredFile, *, cache: Path, patience_s: float) -> Path:
    if is_remote(root):
        url = join(root, file.name)
        return fetch(url, cache=cache, sha256=file.sha256, num_bytes=file.num_bytes, patience_s=patience_s)
    return Path(root) / file.name
