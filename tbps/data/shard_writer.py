"""Write a published data set as webdataset tar shards with an index (`tbps data shard`)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tbps.config.data import Benchmark, LabelSetName
from tbps.data.annotations import Split, read_annotations
from tbps.data.image_files import ImageFiles
from tbps.data.label_maps import ADVICE, check_map, map_path
from tbps.data.label_sets import LABEL_SETS
from tbps.data.shard_index import MapPlaces, MemberTable, ShardSplit, StoredFile, write_index, write_table
from tbps.data.worker_pool import worker_pool

logger = logging.getLogger(__name__)

BYTES_PER_MB = 1_000_000
_LOCK = "lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Image:
    number: int
    file: Path
    num_bytes: int
    changed_ns: int
    row: str
    """The JSON member."""
    maps: Mapping[LabelSetName, Path]
    """Its parsing maps that the shards are to bring, by label set."""
    maps_changed_ns: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    """What is to be written."""

    path: Path
    images: list[_Image]

    @property
    def members(self) -> Path:
        """Says what the written shard holds: there, the shard is whole."""
        return self.path.with_suffix(".members.json")

    def digest(self) -> str:
        """Of everything that the shard is made of, images and parsing maps by size and time."""
        parts = [
            (image.number, str(image.file), image.num_bytes, image.changed_ns, image.row, image.maps_changed_ns)
            for image in self.images
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(kw_only=True, slots=True)
class _Places:
    """Where one written shard holds the members of one kind, in the order of its images."""

    starts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    crcs: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Members:
    """Where one written shard holds each image and each parsing map."""

    file: StoredFile
    places: dict[str, _Places]
    """By the extension of a map's member; of images by the empty one."""


def write_shards(
    root: Path,
    benchmark: Benchmark,
    out: Path,
    *,
    splits: Sequence[str] = (),
    shard_mb: int = 256,
    workers: int = 1,
    parsing: Sequence[LabelSetName] = (),
) -> dict[str, ShardSplit]:
    """Write `splits` (none named = all) of the data set at `root` into the new folder `out`; returns its index.

    Shards hold consecutive images up to `shard_mb`, with their parsing maps of the label sets `parsing`; the bytes depend
    on nothing but the data. `out` appears only when it is complete; shards that a call before has finished are not written
    again.
    ValueError: `out` exists or is being written, the data set cannot be read, or an image or a map is missing.
    """
    if out.exists():
        raise ValueError(f"{out} exists already; remove it or choose another folder (tbps data chunks adds chunks alone)")
    if shard_mb < 1:
        raise ValueError(f"shard_mb is {shard_mb}, expected at least 1")
    annotations = read_annotations(root, benchmark)
    chosen = [annotations.split(name) for name in (splits or annotations.splits)]
    partial = out.parent / f".{out.name}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    with _alone_in(partial, out):
        try:
            planned = {
                split.name: _plan_split(_list_images(root, benchmark, split, parsing=parsing), split, partial, shard_mb)
                for split in chosen
            }
            _clear(partial, [shard for shards in planned.values() for shard in shards])
            index = {
                split.name: _write_split(split, planned[split.name], partial, workers=workers, parsing=parsing)
                for split in chosen
            }
            write_index(partial, benchmark, index)
            for members in partial.glob("*.members.json"):
                members.unlink()
        except BaseException:
            if finished := len(list(partial.glob("*.members.json"))):
                logger.warning("%d shards are kept in %s: the same command goes on from there", finished, partial)
            else:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        (partial / _LOCK).unlink()
        os.rename(partial, out)
    return index


@contextmanager
def _alone_in(partial: Path, out: Path) -> Iterator[None]:
    """Keep a second call out. The lock goes with this process, and forked ones do not inherit it."""
    with (partial / _LOCK).open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"{out} is being written by another process: wait for it, or choose another folder") from error
        except OSError as error:
            logger.warning("%s has no locks (%s): see to it that nothing else writes %s", partial, error.strerror, out)
        yield


def _clear(partial: Path, shards: Sequence[_Shard]) -> None:
    """Remove what an earlier call has begun, or has finished from other images or annotations."""
    kept = {partial / _LOCK}
    for shard in shards:
        if _finished(shard) is not None:
            kept |= {shard.path, shard.members}
    for entry in set(partial.iterdir()) - kept:
        entry.unlink()
    if finished := len(kept) // 2:
        logger.info("%d of %d shards are there already", finished, len(shards))


def _finished(shard: _Shard) -> _Members | None:
    """What a call before has written, if from the same images and rows."""
    try:
        found = json.loads(shard.members.read_text(encoding="utf-8"))
        parts = found["members"]
        members = _Members(
            file=StoredFile(**parts["file"]), places={kind: _Places(**places) for kind, places in parts["places"].items()}
        )
        whole = found["of"] == shard.digest() and shard.path.stat().st_size == members.file.num_bytes
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return members if whole else None


def _plan_split(images: Sequence[_Image], split: Split, out: Path, shard_mb: int) -> list[_Shard]:
    batches = _plan(images, shard_bytes=shard_mb * BYTES_PER_MB)
    return [_Shard(path=out / f"{split.name}-{number:04d}.tar", images=batch) for number, batch in enumerate(batches)]


def _write_split(
    split: Split, shards: Sequence[_Shard], out: Path, *, workers: int, parsing: Sequence[LabelSetName]
) -> ShardSplit:
    if workers > 1:
        import webdataset  # noqa: F401  # once, for all of them: it imports PyTorch

        with worker_pool(workers) as pool:
            written = list(pool.map(_write_shard, shards))
    else:
        written = [_write_shard(shard) for shard in shards]
    logger.info("%s: %d images in %d shards", split.name, len(split.image_path), len(written))
    images = _columns(written, "")
    table = MemberTable(
        shard_I=np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard.images) for shard in shards]),
        start_I=images.start_I,
        size_I=images.size_I,
        crc_I=images.crc_I,
        image_path=split.image_path,
        identity_I=split.image_identity_I,
        image_N=split.image_N,
        caption_number_N=split.caption_number_N,
        caption=split.caption,
        attribute_IA=split.attribute_IA,
        maps={name: _columns(written, _map_extension(name)) for name in parsing},
    )
    return write_table(out, split.name, table, tuple(shard.file for shard in written))


def _columns(written: Sequence[_Members], kind: str) -> MapPlaces:
    """First byte, size and CRC-32 of each image's member of a kind."""
    of_kind = [shard.places[kind] for shard in written]
    return MapPlaces(
        start_I=np.array([start for places in of_kind for start in places.starts], dtype=np.int64),
        size_I=np.array([size for places in of_kind for size in places.sizes], dtype=np.int64),
        crc_I=np.array([crc for places in of_kind for crc in places.crcs], dtype=np.uint32),
    )


def _map_extension(label_set: LabelSetName) -> str:
    return f"parsing-{label_set}.png"


def _list_images(root: Path, benchmark: Benchmark, split: Split, *, parsing: Sequence[LabelSetName]) -> list[_Image]:
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
        maps = {name: root / map_path(image_path, name) for name in parsing}
        for labels in maps.values():
            if not labels.is_file():
                raise ValueError(f"image {image_path} has no parsing map: {labels} is not there; {ADVICE}")
        found, of_maps = file.stat(), [labels.stat() for labels in maps.values()]
        images.append(
            _Image(
                number=number,
                file=file,
                num_bytes=found.st_size + sum(one.st_size for one in of_maps),
                changed_ns=found.st_mtime_ns,
                row=json.dumps(row),
                maps=maps,
                maps_changed_ns=tuple(one.st_mtime_ns for one in of_maps),
            )
        )
    return images


def _plan(images: Sequence[_Image], *, shard_bytes: int) -> list[list[_Image]]:
    """Cut `images` into runs of at most `shard_bytes` (at least one image each)."""
    batches: list[list[_Image]] = []
    room = 0
    for image in images:
        num_bytes = image.num_bytes + len(image.row)
        if num_bytes > room or not batches:
            batches.append([])
            room = shard_bytes
        batches[-1].append(image)
        room -= num_bytes
    return batches


def _write_shard(shard: _Shard) -> _Members:
    """Write a shard, unless it is there: first aside, so that a shard of that name is whole."""
    from webdataset import TarWriter

    if (there := _finished(shard)) is not None:
        return there
    crcs: dict[str, int] = {}
    aside = shard.path.with_suffix(".tmp")
    with TarWriter(str(aside), encoder=False, mtime=0) as writer:
        for image in shard.images:
            members = _contents(image)
            crcs |= {f"{_key(image)}.{extension}": zlib.crc32(content) for extension, content in members.items()}
            writer.write({"__key__": _key(image), **members, "json": image.row.encode()})
    places = {kind: _Places() for kind in ("", *map(_map_extension, shard.images[0].maps))}
    with tarfile.open(aside) as tar:
        for member in tar:
            if member.name in crcs:
                extension = member.name.partition(".")[2]
                kind = places[extension if extension in places else ""]
                kind.starts.append(member.offset_data)
                kind.sizes.append(member.size)
                kind.crcs.append(crcs[member.name])
    aside.rename(shard.path)
    written = _Members(file=StoredFile.of(shard.path, below=shard.path.parent), places=places)
    aside.write_text(json.dumps({"of": shard.digest(), "members": asdict(written)}), encoding="utf-8")
    aside.rename(shard.members)
    return written


def _contents(image: _Image) -> dict[str, bytes]:
    """The members of an image that are copies of files, by their extension."""
    content = image.file.read_bytes()
    members = {_extension(image.file): content}
    for label_set, file in image.maps.items():
        members[_map_extension(label_set)] = file.read_bytes()
        try:
            check_map(members[_map_extension(label_set)], LABEL_SETS[label_set], image_bytes=content)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    return members


def _key(image: _Image) -> str:
    """Names the members of an image: its number in the split."""
    return f"{image.number:09d}"


def _extension(file: Path) -> str:
    return file.suffix.lstrip(".").lower() or "jpg"
