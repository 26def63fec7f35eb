"""Write a published data set as webdataset tar shards with an index (`tbps data shard`)."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tbps.config.run import Benchmark
from tbps.data.annotations import Split, read_annotations
from tbps.data.image_files import ImageFiles
from tbps.data.shard_index import MemberTable, ShardSplit, StoredFile, write_index, write_table

logger = logging.getLogger(__name__)

BYTES_PER_MB = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class _Image:
    number: int
    file: Path
    row: str
    """The JSON member."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Members:
    """Where one written shard holds each image, in order."""

    file: StoredFile
    starts: list[int]
    sizes: list[int]
    crcs: list[int]


def write_shards(
    root: Path, benchmark: Benchmark, out: Path, *, splits: Sequence[str] = (), shard_mb: int = 256, workers: int = 1
) -> dict[str, ShardSplit]:
    """Write `splits` (none named = all) of the data set at `root` into the new folder `out`; returns its index.

    Shards hold consecutive images up to `shard_mb`; the bytes depend on nothing but the data. `out` appears only when it is
    complete. ValueError: `out` exists, the data set cannot be read, or an image is missing.
    """
    if out.exists():
        raise ValueError(f"{out} exists already; remove it or choose another folder")
    if shard_mb < 1:
        raise ValueError(f"shard_mb is {shard_mb}, expected at least 1")
    annotations = read_annotations(root, benchmark)
    chosen = [annotations.split(name) for name in (splits or annotations.splits)]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        index = {
            split.name: _write_split(root, benchmark, split, partial, shard_mb=shard_mb, workers=workers) for split in chosen
        }
        write_index(partial, benchmark, index)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return index


def _write_split(root: Path, benchmark: Benchmark, split: Split, out: Path, *, shard_mb: int, workers: int) -> ShardSplit:
    batches = _plan(_list_images(root, benchmark, split), shard_bytes=shard_mb * BYTES_PER_MB)
    jobs = [(out / f"{split.name}-{number:04d}.tar", batch) for number, batch in enumerate(batches)]
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            written = list(pool.map(_write_shard, jobs))
    else:
        written = [_write_shard(job) for job in jobs]
    logger.info("%s: %d images in %d shards", split.name, len(split.image_path), len(written))
    table = MemberTable(
        shard_I=np.repeat(np.arange(len(batches), dtype=np.int32), [len(batch) for batch in batches]),
        start_I=np.array([start for shard in written for start in shard.starts], dtype=np.int64),
        size_I=np.array([size for shard in written for size in shard.sizes], dtype=np.int64),
        crc_I=np.array([crc for shard in written for crc in shard.crcs], dtype=np.uint32),
        image_path=split.image_path,
        identity_I=split.image_identity_I,
        image_N=split.image_N,
        caption_number_N=split.caption_number_N,
        caption=split.caption,
    )
    return write_table(out, split.name, table, tuple(shard.file for shard in written))


def _list_images(root: Path, benchmark: Benchmark, split: Split) -> list[_Image]:
    captions: list[list[str]] = [[] for _ in range(len(split.image_path))]
    for pair, image in enumerate(split.image_N.tolist()):
        captions[image].append(split.caption[pair])
    images = []
    files = ImageFiles(root, benchmark)
    for number, image_path in enumerate(split.image_path):
        try:
            file = files.find(image_path)
        except ValueError as error:
            raise ValueError(f'{error}; run "tbps data doctor --all" to list every such image') from error
        row = {"path": image_path, "identity": int(split.image_identity_I[number]), "captions": captions[number]}
        if split.attribute_IA is not None:
            row["attributes"] = split.attribute_IA[number].tolist()
        images.append(_Image(number=number, file=file, row=json.dumps(row)))
    return images


def _plan(images: Sequence[_Image], *, shard_bytes: int) -> list[list[_Image]]:
    """Cut `images` into runs of at most `shard_bytes` (at least one image each)."""
    batches: list[list[_Image]] = []
    room = 0
    for image in images:
        num_bytes = image.file.stat().st_size + len(image.row)
        if num_bytes > room or not batches:
            batches.append([])
            room = shard_bytes
        batches[-1].append(image)
        room -= num_bytes
    return batches


def _write_shard(job: tuple[Path, list[_Image]]) -> _Members:
    from webdataset import TarWriter

    path, images = job
    crcs = []
    with TarWriter(str(path), encoder=False, mtime=0) as writer:
        for image in images:
            content = image.file.read_bytes()
            crcs.append(zlib.crc32(content))
            writer.write({"__key__": _key(image), _extension(image.file): content, "json": image.row.encode()})
    with tarfile.open(path) as tar:
        members = {member.name: (member.offset_data, member.size) for member in tar}
    places = [members[f"{_key(image)}.{_extension(image.file)}"] for image in images]
    return _Members(
        file=StoredFile.of(path, below=path.parent),
        starts=[start for start, _ in places],
        sizes=[size for _, size in places],
        crcs=crcs,
    )


def _key(image: _Image) -> str:
    """Names the members of an image: its number in the split."""
    return f"{image.number:09d}"


def _extension(file: Path) -> str:
    return file.suffix.lstrip(".").lower() or "jpg"
