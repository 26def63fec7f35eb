"""Search among made-up features: start-up, time of a query, memory and recall, exactly and by faiss.

Random features have no direction: nothing is much nearer than the next. Clustered ones are as of a trained model: ten
pictures of each person, and some directions vary far more than others.

`python benchmarks/search.py --rows 1000000 --width 256` takes some minutes on two cores, and 0.8 GB of disk. Times are given
twice: as the clock shows them, and as the processor was busy, which does not count what other programs took.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from tbps.search.approximate import Approximate, build
from tbps.search.exact import best_rows
from tbps.search.index import Index, Manifest, write_manifest
from tbps.search.segment import Row, Segment, write_segment

SEGMENT_ROWS = 16_384
PICTURES_OF_ONE, SPREAD = 10, 0.3
"""Of a person, and how far they lie from its mean, in deviations of those means."""
DECAY = 0.7
"""Deviations fall by this power of the direction's number."""
Kind = Literal["random", "clustered"]


def make_features(kind: Kind, num_rows: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(num_rows, width) float32 unit features."""
    features = rng.standard_normal((num_rows, width), dtype=np.float32)
    if kind == "clustered":
        people = rng.standard_normal((-(-num_rows // PICTURES_OF_ONE), width), dtype=np.float32)
        features = np.repeat(people, PICTURES_OF_ONE, axis=0)[:num_rows] + SPREAD * features
        features *= np.arange(1, width + 1, dtype=np.float32) ** -DECAY
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def write_index(folder: Path, *, kind: Kind, num_rows: int, width: int) -> None:
    """An index without pictures."""
    rng, entries = np.random.default_rng(0), []
    for first in range(0, num_rows, SEGMENT_ROWS):
        rows = min(SEGMENT_ROWS, num_rows - first)
        features = make_features(kind, rows, width, rng)
        segment = Segment(rows=[_row(first + row) for row in range(rows)], features=list(features.astype(np.float16)))
        files = write_segment(folder, len(entries) + 1, segment)
        entries.append({"rows": rows, "recorded": rows, "files": files})
    unknown = {"source": "", "weights_sha256": "", "preprocessing": {}, "pictures": "", "root": ""}
    write_manifest(folder, Manifest(**unknown, block=64, thumbnail_px=64, width=width, segments=tuple(entries)))


def _row(row: int) -> Row:
    digest = row.to_bytes(32, "big")
    path = f"cam_{row % 8}/{row:08d}.jpg".encode()
    return Row(path=path, size=row, stamp=row, sha256=digest, size_px=(64, 128), taken_s=row, thumbnail=b"")


def measure(search: Callable[[torch.Tensor], object], queries: torch.Tensor) -> str:
    """p50 and p95 of the clock, and p50 of the processor."""
    clock, busy = [], []
    for query in queries:
        started, started_busy = time.perf_counter(), time.process_time()
        search(query)
        clock.append(1000 * (time.perf_counter() - started))
        busy.append(1000 * (time.process_time() - started_busy))
    p50, p95 = np.percentile(clock, [50, 95])
    return f"p50 {p50:.1f} ms, p95 {p95:.1f} ms (processor: p50 {np.median(busy):.1f} ms)"


def _memory() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most, mapped features included"


def compare(folder: Path, *, kind: Kind, num_queries: int, width: int) -> None:
    """Print the table."""
    started = time.perf_counter()
    index = Index.open(folder)
    print(f"{kind}: opened in {1000 * (time.perf_counter() - started):.0f} ms, {index.num_rows:,} rows of {width}")
    queries = torch.from_numpy(make_features(kind, num_queries, width, np.random.default_rng(1)))
    blocks, allowed = list(index.blocks()), index.live_N

    def exact(query: torch.Tensor) -> np.ndarray:
        return best_rows(query, blocks, num_rows=index.num_rows, top=10, allowed_N=allowed)[0]

    exact(queries[0])
    print(f"exact    {measure(exact, queries)}; {_memory()}")
    print(build(index))
    started = time.perf_counter()
    approximate = Approximate.open(index)
    assert approximate is not None
    opened_ms = 1000 * (time.perf_counter() - started)

    def faiss(query: torch.Tensor) -> np.ndarray:
        return approximate.best_rows(query, index, top=10, allowed_N=allowed)[0]

    faiss(queries[0])
    print(f"faiss    {measure(faiss, queries)}; opened in {opened_ms:.0f} ms; {_memory()}")
    same = sum(len(set(exact(query).tolist()) & set(faiss(query).tolist())) for query in queries)
    print(f"recall at 10 of {num_queries} other queries: {same / (10 * num_queries):.4f}")


def main() -> None:
    """Write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=100)
    given = parser.parse_args()
    for kind in get_args(Kind):
        with tempfile.TemporaryDirectory() as folder:
            write_index(Path(folder), kind=kind, num_rows=given.rows, width=given.width)
            compare(Path(folder), kind=kind, num_queries=given.queries, width=given.width)


if __name__ == "__main__":
    main()
