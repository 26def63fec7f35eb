"""Input at scale: start-up, memory, speed, order, resume, shuffling, and a cache that is smaller than its shards.

Run      OMP_NUM_THREADS=1 python benchmarks/scale.py --folder /scratch/scale
         OMP_NUM_THREADS=1 python benchmarks/scale.py --folder /scratch/scale --pairs 100000000 --no-order
Makes    an index of --pairs pairs (135 bytes each) over 200 MB of shards, whose images are shown again and again.

Figures of one machine stand in tbps/data/scale.md.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import http.server
import io
import json
import multiprocessing
import random
import statistics
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from loader import CAPTION, make_sources
from numpy.typing import NDArray

from tbps.config.data import Captioning, Data
from tbps.config.methods.mars import Mars
from tbps.data.loader import MicroBatch, PairDataset, make_loader
from tbps.data.pairs import open_pairs
from tbps.data.sample_order import BatchOrder, PairOrder
from tbps.data.shard_index import FORMAT_VERSION, INDEX_NAME, ShardSplit, StoredFile, write_pieces
from tbps.text.captions import CaptionEncoder
from tbps.text.word_pieces import open_word_pieces, train_vocabulary

SHARDS, SHARD_BYTES, DISTINCT_IMAGES = 20, 10_000_000, 200
BATCH_PAIRS, GROUP_PAIRS = 4096, 8
WORLD_SIZES = (1, 8, 64, 512)
PATH_BYTES, CAPTION_BYTES, ROWS_AT_ONCE = 21, 50, 1 << 21
Places = list[tuple[int, int, int, int]]
"""(shard, start, size, CRC-32) of each image."""


def write_shards(folder: Path) -> Places:
    """Tar files of JPEG images of 384 x 128."""
    (folder / "sources").mkdir(parents=True)
    make_sources(folder / "sources", DISTINCT_IMAGES, (384, 128))
    files = [path.read_bytes() for path in sorted((folder / "sources").iterdir())]
    places: Places = []
    for shard in range(SHARDS):
        with tarfile.open(folder / f"train-{shard:04d}.tar", "w") as tar:
            while tar.offset < SHARD_BYTES:
                content = files[len(places) % len(files)]
                member = tarfile.TarInfo(f"{len(places):09d}.jpg")
                member.size = len(content)
                places.append((shard, tar.offset + 512, len(content), zlib.crc32(content)))
                tar.addfile(member, io.BytesIO(content))
    return places


def digits(number_R: NDArray[np.int64], template: bytes, first: int) -> NDArray[np.uint8]:
    """(R, bytes): the template with ten digits of each number from byte `first` on."""
    rows = np.tile(np.frombuffer(template, dtype=np.uint8), (len(number_R), 1))
    for place in range(10):
        rows[:, first + 9 - place] = 48 + number_R // 10**place % 10
    return rows


def write_index(folder: Path, places: Places, num_pairs: int) -> None:
    """A table of `num_pairs` images with one caption each, written piece by piece."""
    place_PX = np.array(places)
    caption = CAPTION.encode()[: CAPTION_BYTES - 11] + b" " + b"0" * 10
    columns: dict[str, tuple[str, int, Callable[[NDArray[np.int64]], NDArray]]] = {
        "caption.start": ("I64", num_pairs + 1, lambda row: row * CAPTION_BYTES),
        "caption_number_N": ("I64", num_pairs, lambda row: row * 0),
        "identity_I": ("I64", num_pairs, lambda row: row),
        "image_N": ("I64", num_pairs, lambda row: row),
        "image_path.start": ("I64", num_pairs + 1, lambda row: row * PATH_BYTES),
        "size_I": ("I64", num_pairs, lambda row: place_PX[row * len(places) // num_pairs, 2]),
        "start_I": ("I64", num_pairs, lambda row: place_PX[row * len(places) // num_pairs, 1]),
        "crc_I": ("U32", num_pairs, lambda row: place_PX[row * len(places) // num_pairs, 3]),
        "shard_I": ("I32", num_pairs, lambda row: place_PX[row * len(places) // num_pairs, 0]),
        "caption.utf8": ("U8", num_pairs * CAPTION_BYTES, lambda row: digits(row, caption, CAPTION_BYTES - 10)),
        "image_path.utf8": (
            "U8",
            num_pairs * PATH_BYTES,
            lambda row: digits(row, b"mals/0/0000000000.jpg", 7),
        ),
    }
    kinds = {"I64": np.dtype("<i8"), "U32": np.dtype("<u4"), "I32": np.dtype("<i4"), "U8": np.dtype("u1")}
    header, end = {}, 0
    for name, (kind, length, _) in columns.items():
        header[name] = {"dtype": kind, "shape": [length], "data_offsets": [end, end + length * kinds[kind].itemsize]}
        end = header[name]["data_offsets"][1]
    text = json.dumps(header).encode()
    path = folder / "train-index.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for kind, length, values in columns.values():
            rows = num_pairs if kind == "U8" else length
            for first in range(0, rows, ROWS_AT_ONCE):
                file.write(values(np.arange(first, min(first + ROWS_AT_ONCE, rows))).astype(kinds[kind]).tobytes())
    split = ShardSplit(
        index=StoredFile.of(path, below=folder),
        shards=tuple(StoredFile.of(shard, below=folder) for shard in sorted(folder.glob("*.tar"))),
        num_pairs=num_pairs,
        num_images=num_pairs,
        num_identities=num_pairs,
        pieces=write_pieces(path),
        by_identity=True,
    )
    content = {"format": FORMAT_VERSION, "benchmark": "mals", "splits": {"train": asdict(split)}, "chunks": []}
    (folder / INDEX_NAME).write_text(json.dumps(content))


def make_data(root: str, folder: Path, **changes: int) -> Data:
    """Settings of MARS's pretraining."""
    return Data(
        benchmark="mals",
        root=root,
        cache=str(folder / "cache"),
        captioning=Captioning(vocabulary=str(folder / "vocab.txt"), max_words=50, max_tokens=50),
        image_px=(384, 384),
        batch_pairs=GROUP_PAIRS,
        group_pairs=GROUP_PAIRS,
        **changes,
    )


def make_encoder(folder: Path) -> CaptionEncoder:
    """Word pieces of the one caption."""
    train_vocabulary([CAPTION], size=100, path=folder / "vocab.txt")
    return CaptionEncoder(
        open_word_pieces(str(folder / "vocab.txt")), max_words=50, max_tokens=50, cleaning="space", chunker=None
    )


def resident_mb(process: int | str = "self") -> float:
    """Resident memory of a process, shared pages included."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000


def start(folder: Path) -> str:
    """Start-up and memory of a process that opens the index and of its two workers."""
    encoder, before, began = make_encoder(folder), resident_mb(), time.perf_counter()
    data = make_data(str(folder), folder, workers=2)
    source = open_pairs(data)
    opened_s, opened_mb = time.perf_counter() - began, resident_mb() - before
    loader = make_loader(source, encoder, data, Mars().needs((384, 384)), seed=0, start_step=0, num_steps=40)
    worker_mb = []
    for number, _ in enumerate(loader):
        if number == 0:
            first_s = time.perf_counter() - began
        if number == 30:
            worker_mb = [resident_mb(child.pid or 0) for child in multiprocessing.active_children()]
    return (
        f"index opened in {opened_s:.2f} s, first batch after {first_s:.1f} s; memory above that of a process without data:"
        f" opened {opened_mb:.0f} MB, after 40 batches {resident_mb() - before:.0f} MB,"
        f" whole workers {' and '.join(f'{one:.0f}' for one in worker_mb)} MB"
    )


def speed(folder: Path) -> str:
    """Pairs that one core loads in a second, all that a worker does."""
    data = make_data(str(folder), folder)
    source = open_pairs(data)
    dataset = PairDataset(source, make_encoder(folder), data, Mars().needs((384, 384)), seed=0)
    order = BatchOrder(PairOrder(len(source), seed=1), batch_pairs=GROUP_PAIRS, group_pairs=GROUP_PAIRS)
    rounds = []
    for first in range(0, 60, 20):
        began = time.process_time()
        for step in range(first, first + 20):
            dataset[MicroBatch(pairs=tuple(order.indices(step)), epoch=0.0)]
        rounds.append(20 * GROUP_PAIRS / (time.process_time() - began))
    return f"{statistics.median(rounds):.0f} pairs in a second of one core"


def positions(order: BatchOrder, world_size: int, steps: range) -> Iterator[int]:
    """The pairs of all ranks, step after step."""
    for step in steps:
        for rank in range(world_size):
            yield from (pair for _, pair in order.indices(step, rank=rank, world_size=world_size))


def order_and_resume(num_pairs: int) -> Iterator[str]:
    """Digests of a whole epoch for each world size, and three interrupted epochs."""
    steps = num_pairs // BATCH_PAIRS  # whole batches of the first epoch
    for world_size in WORLD_SIZES:
        order = BatchOrder(PairOrder(num_pairs, seed=1), batch_pairs=BATCH_PAIRS, group_pairs=GROUP_PAIRS)
        pairs = np.fromiter(positions(order, world_size, range(steps)), dtype=np.int64)
        digest = hashlib.sha256(pairs.tobytes()).hexdigest()[:16]
        yield f"order of {len(pairs)} pairs, {world_size} processes: sha256 {digest}, different {len(np.unique(pairs))}"
    for _ in range(3):
        stop, before, after = random.randrange(steps), *random.sample(WORLD_SIZES, 2)
        order = BatchOrder(PairOrder(num_pairs, seed=1), batch_pairs=BATCH_PAIRS, group_pairs=GROUP_PAIRS)
        first = np.fromiter(positions(order, before, range(stop)), dtype=np.int64)
        order = BatchOrder(PairOrder(num_pairs, seed=1), batch_pairs=BATCH_PAIRS, group_pairs=GROUP_PAIRS)
        rest = np.fromiter(positions(order, after, range(stop, steps)), dtype=np.int64)
        same = hashlib.sha256(first.tobytes() + rest.tobytes()).hexdigest()[:16]
        yield f"stopped after step {stop} on {before} processes, resumed on {after}: sha256 {same}"


def shuffling(num_pairs: int) -> Iterator[str]:
    """How far neighbours of the order lie apart where they are stored, and how often a batch has an identity twice."""
    order = PairOrder(num_pairs, seed=1)
    count = min(num_pairs, 50 * BATCH_PAIRS)
    pairs = np.array([order.at(position)[1] for position in range(count)])
    apart = np.abs(np.diff(pairs))
    yield (
        f"distance of neighbours: median {np.median(apart):.0f} pairs ({np.median(apart) / num_pairs:.2f} of all; a full"
        f" shuffle: 0.29), {100 * np.mean(apart < 4096):.2f} % nearer than a block (a full shuffle:"
        f" {100 * (1 - (1 - 4096 / num_pairs) ** 2):.2f} %)"
    )
    rng = random.Random(0)
    for each in (2, 4, 20):
        batches = pairs[: count // BATCH_PAIRS * BATCH_PAIRS].reshape(-1, BATCH_PAIRS) // each
        repeated = np.mean([BATCH_PAIRS - len(np.unique(batch)) for batch in batches])
        full = [BATCH_PAIRS - len({pair // each for pair in rng.sample(range(num_pairs), BATCH_PAIRS)}) for _ in range(20)]
        yield (
            f"identities of {each} pairs that lie together: {repeated:.1f} of a batch of {BATCH_PAIRS} pairs show one that"
            f" is in it already (a full shuffle: {np.mean(full):.1f})"
        )


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


def first_byte(path: Path) -> bytes:
    """Of a table's header."""
    with path.open("rb") as file:
        return file.read(9)[8:]


def small_cache(folder: Path) -> str:
    """Shards behind http and a cache of a quarter of them."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = open_pairs(make_data(f"http://127.0.0.1:{server.server_address[1]}", folder, cache_mb=50))
    largest = 0
    began = time.perf_counter()
    for pair in random.Random(0).sample(range(len(source)), 200):
        source.image_bytes(pair)
        files = [path for path in (folder / "cache").glob("??/*") if len(path.name) == 64 and first_byte(path) != b"{"]
        largest = max(largest, sum(path.stat().st_size for path in files))
    server.shutdown()
    return (
        f"50 MB of cache under {SHARDS * SHARD_BYTES // 1_000_000} MB: 200 images of random shards, each whole, in"
        f" {time.perf_counter() - began:.1f} s; at most {largest / 1e6:.1f} MB lay there"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="new folder for what is read; removing it is yours")
    parser.add_argument("--pairs", type=int, default=1_500_000)
    parser.add_argument("--no-order", action="store_true", help="leave out order and resume, which take a minute a million")
    arguments = parser.parse_args()
    write_index(arguments.folder, write_shards(arguments.folder), arguments.pairs)
    print(f"{arguments.pairs} pairs")
    print(start(arguments.folder))
    print(speed(arguments.folder))
    if not arguments.no_order:
        for line in order_and_resume(arguments.pairs):
            print(line)
    for line in shuffling(arguments.pairs):
        print(line)
    if arguments.pairs <= 10_000_000:  # a table is fetched whole, too
        print(small_cache(arguments.folder))


if __name__ == "__main__":
    main()
