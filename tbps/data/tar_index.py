"""Index tar shards where they lie (`tbps data index`): those of other webdataset tools, and ours of index format 1.

A sample is what lies under one key: the name of a member up to the first dot of its last part, as in webdataset.
"""

from __future__ import annotations

import json
import logging
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from tbps.config.data import Benchmark
from tbps.data.column import StringColumn, map_columns
from tbps.data.layouts import LAYOUTS
from tbps.data.readers.row import one_spelling
from tbps.data.remote import sha256_of
from tbps.data.shard_index import (
    ADVICE,
    INDEX_NAME,
    READABLE,
    MemberTable,
    ShardSplit,
    StoredFile,
    read_content,
    splits_in,
    write_index,
    write_pieces,
    write_table,
)
from tbps.data.worker_pool import worker_pool

logger = logging.getLogger(__name__)

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp", "bmp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """Where a sample keeps what; `EXTENSION` is a member's whole text, `EXTENSION:FIELD.FIELD` a field of its JSON."""

    image: tuple[str, ...] = IMAGE_KEYS
    """Extensions of images; the first that a sample has is taken."""
    caption: str = "txt"
    """A text, or a list of texts in JSON."""
    identity: str = ""
    """Whom the image shows; empty: every image is an identity of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    """What one tar holds; one entry per image, in order."""

    file: StoredFile
    start: list[int]
    size: list[int]
    crc: list[int]
    path: list[str]
    identity: list[str]
    captions: list[tuple[str, ...]]


def index_tars(
    root: Path, benchmark: Benchmark, *, split: str = "train", tars: str = "*.tar", keys: Keys = Keys(), workers: int = 1
) -> ShardSplit:
    """Add `split`, made of the tars below `root` that match `tars`, to the index of `root`; the tars stay as they are.

    ValueError: no such tar, a compressed one, or a sample without image, caption or identity.
    """
    files = sorted(path for path in root.glob(tars) if path.is_file())
    if not files:
        raise ValueError(f"{root} holds no {tars}; give the folder of the tars, or their pattern with --tars")
    if not keys.identity and LAYOUTS[benchmark].identities == "annotated":
        raise ValueError(f"{benchmark} needs to know who is shown: name the field with --identity-key, such as json:id")
    splits: dict[str, ShardSplit] = {}
    if (root / INDEX_NAME).exists():
        splits = splits_in(read_content(str(root), cache=root), str(root))
    jobs = [(root, file, keys) for file in files]
    if workers > 1:
        with worker_pool(workers) as pool:
            shards = list(pool.map(_read_shard, jobs))
    else:
        shards = [_read_shard(job) for job in jobs]
    _refuse_shared(split, shards, splits)
    splits[split] = write_table(root, split, _table(shards), tuple(shard.file for shard in shards))
    write_index(root, benchmark, splits)
    return splits[split]


def _refuse_shared(split: str, shards: Sequence[_Shard], splits: Mapping[str, ShardSplit]) -> None:
    """Test must be apart: no tar of it may be in another split, under whatever name."""
    mine = {shard.file.sha256: shard.file.name for shard in shards}
    for other, indexed in splits.items():
        shared = [mine[file.sha256] for file in indexed.shards if file.sha256 in mine]
        if shared and other != split and "test" in (other, split):
            raise ValueError(
                f"{shared[0]} would be in {split} and is in {other} already; give the tars of each split with --tars,"
                f" and index {other} again if it is the one that has too many"
            )


def _table(shards: Sequence[_Shard]) -> MemberTable:
    identities: dict[str, int] = {}
    captions = [captions for shard in shards for captions in shard.captions]
    counts = [len(one) for one in captions]
    return MemberTable(
        shard_I=np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard.path) for shard in shards]),
        start_I=np.array([start for shard in shards for start in shard.start], dtype=np.int64),
        size_I=np.array([size for shard in shards for size in shard.size], dtype=np.int64),
        crc_I=np.array([crc for shard in shards for crc in shard.crc], dtype=np.uint32),
        image_path=StringColumn(path for shard in shards for path in shard.path),
        identity_I=np.array(
            [identities.setdefault(one, len(identities)) for shard in shards for one in shard.identity], dtype=np.int64
        ),
        image_N=np.repeat(np.arange(len(captions), dtype=np.int64), counts),
        caption_number_N=np.concatenate([np.arange(count, dtype=np.int64) for count in counts]),
        caption=StringColumn(caption for one in captions for caption in one),
    )


def _read_shard(job: tuple[Path, Path, Keys]) -> _Shard:
    root, file, keys = job
    shard = _Shard(file=StoredFile.of(file, below=root), start=[], size=[], crc=[], path=[], identity=[], captions=[])
    stem = shard.file.name.removesuffix(".tar")
    with file.open("rb") as content:
        for key, members in _samples(file):
            where = f"{file}, sample {key}"
            extension = next((one for one in keys.image if one in members), None)
            if extension is None:
                found, wanted = ", ".join(sorted(members)), " or ".join(keys.image)
                raise ValueError(f"{where} has no {wanted}, found {found}; name the image with --image-key")
            start, size = members[extension]
            path = f"{stem}/{key}.{extension}"
            shard.start.append(start)
            shard.size.append(size)
            shard.crc.append(zlib.crc32(_content(content, start, size)))
            shard.path.append(path)
            shard.captions.append(_captions(_value(content, members, keys.caption, "--caption-key", where), where))
            identity = _value(content, members, keys.identity, "--identity-key", where) if keys.identity else path
            shard.identity.append(_identity(identity, where))
    if not shard.path:
        raise ValueError(f"{file} holds no file; remove it, or leave it out with --tars")
    return shard


def _samples(file: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Key, and place and size of each extension, for neighbours of one key."""
    key, members = "", dict[str, tuple[int, int]]()
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                folder, slash, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if not member.isreg() or not stem:
                    continue
                if f"{folder}{slash}{stem}" != key:
                    if members:
                        yield key, members
                    key, members = f"{folder}{slash}{stem}", {}
                members[extension.lower()] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"{file} is no plain tar ({error}); unpack a compressed one, or create it again") from error
    if members:
        yield key, members


def _content(file: IO[bytes], start: int, size: int) -> bytes:
    file.seek(start)
    content = file.read(size)
    if len(content) < size:
        raise ValueError(f"{file.name} ends within a member; copy it again")
    return content


def _value(file: IO[bytes], members: dict[str, tuple[int, int]], key: str, option: str, where: str) -> Any:
    """The value that `key` names."""
    extension, colon, fields = key.partition(":")
    if extension not in members:
        raise ValueError(f"{where} has no {extension}, found {', '.join(sorted(members))}; name another with {option}")
    try:
        text = _content(file, *members[extension]).decode("utf-8-sig")
        value = json.loads(text) if colon else text.strip()
    except ValueError as error:
        raise ValueError(f"{where}: its {extension} cannot be read ({error}); correct it") from error
    for field in fields.split(".") if colon else ():
        if not isinstance(value, dict) or field not in value:
            found = ", ".join(map(repr, value)) if isinstance(value, dict) else repr(value)
            raise ValueError(f"{where}: its {extension} has no field {field!r}, found {found}; name another with {option}")
        value = value[field]
    return value


def _captions(value: object, where: str) -> tuple[str, ...]:
    captions = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not captions or not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise ValueError(f"{where}: its caption is {value!r}, expected a text or a list of texts; see --caption-key")
    return captions


def _identity(value: object, where: str) -> str:
    if (identity := one_spelling(value)) is None:
        raise ValueError(f"{where}: its identity is {value!r}, expected a number or a name; see --identity-key")
    return identity


# -- shards of older indexes ----------------------------------------------------------------------------------------------


def upgrade(root: Path) -> list[str]:
    """Bring the index of our own shards at `root` to this format; returns the splits that were, none where it is new."""
    if not (root / INDEX_NAME).exists():
        raise ValueError(f"{root} holds no {INDEX_NAME}; say with --benchmark and --caption-key what its tars hold")
    content = read_content(str(root), cache=root)
    if content["format"] in READABLE:
        return _add_pieces(root, content)
    if content["format"] != 1:
        splits_in(content, str(root))  # says so
    splits = {name: _upgrade_split(root, name, old) for name, old in content["splits"].items()}
    write_index(root, content["benchmark"], splits)
    for name in splits:
        (root / f"{name}-index.npz").unlink(missing_ok=True)
    return list(splits)


def _add_pieces(root: Path, content: dict[str, Any]) -> list[str]:
    """Describe the tables of formats 2 to 4 as format 5 does, and leave them as they are; returns their splits."""
    splits = splits_in(content, str(root))
    added = [name for name, split in splits.items() if split.pieces is None]
    for name in added:
        path = root / splits[name].index.name
        if (found := sha256_of(path)) != splits[name].index.sha256:
            raise ValueError(f"{path}: sha256 is {found[:12]}, expected {splits[name].index.sha256[:12]}; {ADVICE}")
        columns = map_columns(path)
        image_N, identity_I = np.asarray(columns["image_N"]), np.asarray(columns["identity_I"])
        identity_N = identity_I[image_N]
        lies_so = bool((identity_N[1:] >= identity_N[:-1]).all())
        splits[name] = replace(splits[name], pieces=write_pieces(path), by_identity=lies_so)
    if added:
        write_index(root, content["benchmark"], splits)
    return added


def _upgrade_split(root: Path, name: str, old: dict[str, Any]) -> ShardSplit:
    shards = tuple(StoredFile(**one) for one in old["shards"])
    try:
        with np.load(root / old["index"]["name"]) as arrays:
            table = dict(arrays)
    except (OSError, ValueError) as error:
        raise ValueError(f"{root / old['index']['name']} cannot be read ({error}); create the shards again") from error
    rows = []
    for shard in range(len(shards)):
        with (root / shards[shard].name).open("rb") as file:
            for image in np.flatnonzero(table["shard_I"] == shard).tolist():
                start, size = int(table["start_I2"][image, 1]), int(table["size_I2"][image, 1])
                row = _content(file, start, size)
                if zlib.crc32(row) != table["crc_I2"][image, 1]:
                    raise ValueError(f"{file.name}: image {image} has other captions than its index says; make it again")
                rows.append(json.loads(row))
    numbers = zip(table["image_N"].tolist(), table["caption_number_N"].tolist(), strict=True)
    new = MemberTable(
        shard_I=table["shard_I"],
        start_I=table["start_I2"][:, 0],
        size_I=table["size_I2"][:, 0],
        crc_I=table["crc_I2"][:, 0],
        image_path=StringColumn(row["path"] for row in rows),
        identity_I=table["identity_I"],
        image_N=table["image_N"],
        caption_number_N=table["caption_number_N"],
        caption=StringColumn(rows[image]["captions"][number] for image, number in numbers),
    )
    return write_table(root, name, new, shards)
