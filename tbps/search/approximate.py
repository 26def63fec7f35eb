"""Faster than exact search beyond 10^5 pictures, by faiss: 4-bit codes of all features are compared, and the best computed.

Features are turned by a random rotation, which gives all their numbers about the same variance (in trained features some
have a multiple of others'), and two numbers each become one of 16 values (product quantisation): an eighth of the
features' bytes, all scanned for each query, from memory. So it does not matter whether queries lie where pictures do;
sentences do not. The best candidates are then computed from the features themselves, as in exact search. How many there
must be depends on how near to each other pictures are, and is measured when the codes are built. Rows that were appended
since are searched exactly, so codes may be older than the index.

Shapes: N rows, E features, K best.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps.runs.atomic_file import fsync_path, read_json, words_of, write_json
from tbps.search.exact import best_among, best_rows
from tbps.search.index import Index

CODES, ABOUT = "faiss.codes", "faiss.json"
LEAST_ROWS = 640
"""Fewer are too few to learn codes from."""
_TRAINED_ON = 65_536
_CANDIDATES = (1000, 2000, 4000, 8000, 16_000, 32_000, 64_000)
"""Rows that are computed for each search: the first number that finds `_GOAL` of the nearest."""
_GOAL = 0.995
_PER_HIT = 50
"""And for each picture that is asked for."""
_TRIED = 100
"""Pictures that are searched with to measure recall."""
_ADVICE = "tbps index --faiss builds it again, and --exact searches without"


def import_faiss() -> Any:
    """The library. ValueError: it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            f"faiss cannot be imported ({error}), expected it for approximate search: pip install faiss-cpu, or search with"
            " --exact"
        ) from error
    return faiss


class Approximate:
    """The codes of an index's first rows."""

    def __init__(self, codes: Any, *, candidates: int) -> None:
        """candidates: rows that are computed for each search at least."""
        self._codes = codes
        self._candidates = candidates
        self.num_rows = int(codes.ntotal)
        """Rows that have codes."""

    @classmethod
    def open(cls, index: Index) -> Approximate | None:
        """Those in the index's folder; None where there are none. ValueError: they are damaged or of another index."""
        if not (index.folder / ABOUT).is_file():
            return None
        faiss = import_faiss()
        about = read_json(index.folder / ABOUT, advice=_ADVICE)
        try:
            same = about["features"] == _features_of(index, int(about["segments"]))
            codes, candidates = faiss.read_index(str(index.folder / CODES)), int(about["candidates"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{index.folder / CODES} cannot be read ({str(error)[:80]}); {_ADVICE}") from error
        if not same or codes.ntotal != about["rows"]:
            raise ValueError(f"{index.folder / CODES} is of another index; {_ADVICE}")
        return cls(codes, candidates=candidates)

    def best_rows(
        self, query_E: Tensor, index: Index, *, top: int, allowed_N: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As `exact.best_rows`, nearly always the same. Where less than half of the rows may be found, exactly the same."""
        blocks = list(index.blocks())
        if 2 * np.count_nonzero(allowed_N) < index.num_rows:
            return best_rows(query_E, blocks, num_rows=index.num_rows, top=top, allowed_N=allowed_N)
        found_M = self.candidates(query_E, max(self._candidates, _PER_HIT * top))
        row_M = np.concatenate([np.sort(found_M), np.arange(self.num_rows, index.num_rows)])
        return best_among(query_E, blocks, row_M[allowed_N[row_M]], top=top)

    def candidates(self, query_E: Tensor, wanted: int) -> NDArray[np.int64]:
        """(M,) the rows whose codes are nearest, nearest first, `wanted` or all."""
        _, found = self._codes.search(query_E.numpy()[None], min(wanted, self.num_rows))
        return found[0][found[0] >= 0]


def build(index: Index) -> str:
    """Write the codes of all rows beside them; what was built, in words, with its recall against exact search.

    ValueError: faiss is missing, or there are too few pictures. OSError: no room.
    """
    faiss = import_faiss()
    if index.num_rows < LEAST_ROWS:
        raise ValueError(
            f"{index.folder} has {index.num_rows} pictures, expected at least {LEAST_ROWS} for --faiss; exact search of so"
            " few takes a millisecond: leave --faiss out"
        )
    started, width = time.perf_counter(), index.manifest.width
    codes = faiss.index_factory(width, f"RR{width},PQ{width // 2}x4fs", faiss.METRIC_INNER_PRODUCT)
    spread = np.unique(np.linspace(0, index.num_rows - 1, min(index.num_rows, _TRAINED_ON)).astype(np.int64))
    blocks = list(index.blocks())
    codes.train(_chosen(blocks, spread))
    for _, features in blocks:
        codes.add(features.astype(np.float32))
    candidates, recall = _enough(codes, index)
    _write(faiss, index, codes, candidates)
    return (
        f"faiss: codes of {index.num_rows:,} rows built in {time.perf_counter() - started:.1f} s, of which the best"
        f" {candidates:,} are computed; recall at 10 against exact search {recall:.4f}"
    )


def _write(faiss: Any, index: Index, codes: Any, candidates: int) -> None:
    """The codes, then what says of which rows they are: old ones are never taken for new."""
    (index.folder / ABOUT).unlink(missing_ok=True)
    aside = index.folder / f".{CODES}.{os.getpid()}.tmp"
    try:
        faiss.write_index(codes, str(aside))
        fsync_path(aside)
        aside.rename(index.folder / CODES)
    except (RuntimeError, OSError) as error:
        why = words_of(error) if isinstance(error, OSError) else str(error)[-80:]
        raise OSError(f"{index.folder / CODES} cannot be written: {why}; make room and give --faiss again") from error
    finally:
        aside.unlink(missing_ok=True)
    segments = len(index.manifest.segments)
    about = {"rows": index.num_rows, "segments": segments, "features": _features_of(index, segments)}
    write_json(index.folder / ABOUT, {**about, "candidates": candidates})


def _features_of(index: Index, segments: int) -> str:
    """Digest of the features of the first segments."""
    digests = [segment["files"]["features"]["sha256"] for segment in index.manifest.segments[:segments]]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _enough(codes: Any, index: Index) -> tuple[int, float]:
    """How many candidates must be computed, and the share of the ten nearest pictures that they hold.

    Searched with some of the index's own pictures, whose nearest (they themselves among them) are found exactly.
    """
    approximate, live = Approximate(codes, candidates=_CANDIDATES[-1]), np.flatnonzero(index.live_N)
    blocks, places = list(index.blocks()), []
    for row in live[np.linspace(0, len(live) - 1, min(_TRIED, len(live))).astype(np.int64)].tolist():
        query_E = torch.from_numpy(index.feature(row)).float()
        nearest, _ = best_rows(query_E, blocks, num_rows=index.num_rows, top=10, allowed_N=index.live_N)
        place_N = np.full(index.num_rows, _CANDIDATES[-1])
        found_M = approximate.candidates(query_E, _CANDIDATES[-1])
        place_N[found_M] = np.arange(len(found_M))
        places.append(place_N[nearest])
    place_T = np.concatenate(places)
    recalls = [float((place_T < most).mean()) for most in _CANDIDATES]
    chosen = next((at for at, recall in enumerate(recalls) if recall >= _GOAL), len(recalls) - 1)
    return _CANDIDATES[chosen], recalls[chosen]


def _chosen(blocks: list[tuple[int, NDArray[np.float16]]], row_M: NDArray[np.int64]) -> NDArray[np.float32]:
    parts = []
    for first, features in blocks:
        inside = row_M[np.searchsorted(row_M, first) : np.searchsorted(row_M, first + len(features))] - first
        parts.append(features[inside].astype(np.float32))
    return np.concatenate(parts)
