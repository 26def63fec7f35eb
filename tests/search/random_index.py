"""An index of random unit features, for what only reads features."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tbps.search.index import Index, Manifest, write_manifest
from tbps.search.segment import Row, Segment, write_segment


def random_index(folder: Path, *, segments: list[int], width: int = 64, seed: int = 0, cone: float = 1.0) -> Index:
    """Written with as many rows in each segment. cone: how far they lie from a common direction, less than 1: near it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, entries, first = np.random.default_rng(seed), [], 0
    for number, rows in enumerate(segments, start=1):
        features = rng.standard_normal((rows, width), dtype=np.float32)
        features[:, 0] += (1 / cone - 1) * width**0.5
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        segment = Segment(features=list(features.astype(np.float16)))
        for row in range(first, first + rows):
            segment.rows.append(
                Row(
                    path=f"cam_{row % 8}/{row:07d}.jpg".encode(),
                    size=row,
                    stamp=row,
                    sha256=row.to_bytes(32, "big"),
                    size_px=(1, 1),
                    taken_s=row,
                    thumbnail=b"",
                )
            )
        entries.append({"rows": rows, "recorded": rows, "files": write_segment(folder, number, segment)})
        first += rows
    manifest = Manifest(
        source="",
        weights_sha256="",
        preprocessing={},
        pictures="",
        root="",
        block=64,
        thumbnail_px=64,
        width=width,
        segments=tuple(entries),
    )
    write_manifest(folder, manifest)
    return Index.open(folder)
