"""What a folder of shards holds: its files with their digests, and the table of each split.

A folder of shards holds `tbps-index.json` (what there is), one `<split>-index.safetensors` per split (where each image lies,
and every caption), `<split>-index.crc32` (of each piece of that table) and tar files. Rows of tables are read by their
place: a start reads none, whatever their number, and no process keeps any.

Shapes: N pairs, I images.
"""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from tbps.config.data import LabelSetName
from tbps.data.column import Column, StringColumn, write_columns
from tbps.data.remote import PATIENCE_S, is_remote, join, read_text, sha256_of, shown
from tbps.data.stored_columns import StoredBytes, StoredColumn, StoredStrings, open_columns, piece_crcs

INDEX_NAME = "tbps-index.json"
FORMAT_VERSION = 5
"""5: tables can be checked piece by piece, and name the pairs of each identity. 4: parsing maps of several label sets. 3:
attributes, and where parsing maps of ATR lie, are in the tables. 2: captions and image paths are. 1: they are in the shards
only."""
READABLE = (2, 3, 4, 5)
ADVICE = 'run "tbps data verify" and create the shards again'


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """One file of a shard folder as its index describes it."""

    name: str
    num_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, *, below: Path) -> StoredFile:
        """Read `path`; its name is relative to the folder `below`."""
        return cls(name=path.relative_to(below).as_posix(), num_bytes=path.stat().st_size, sha256=sha256_of(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSplit:
    """One split of a shard folder."""

    index: StoredFile
    shards: tuple[StoredFile, ...]
    num_pairs: int
    num_images: int
    num_identities: int
    pieces: StoredFile | None = None
    """CRC-32 of each piece of the table, 4 bytes each, little-endian; None before format 5."""
    by_identity: bool = False
    """Whether pairs lie in the order of their identities, or the table has `by_identity_N`."""


Numbers = NDArray[Any] | StoredColumn
"""In memory where a table is made, in a file where it is read."""
Strings = StringColumn | StoredStrings


@dataclass(frozen=True, kw_only=True)
class MapPlaces:
    """Where the parsing maps of one label set lie, each in its image's shard."""

    start_I: Numbers
    """(I,) int64: first content byte."""
    size_I: Numbers
    """(I,) int64: bytes."""
    crc_I: Numbers
    """(I,) uint32: CRC-32."""


@dataclass(frozen=True, kw_only=True)
class MemberTable:
    """Every image and every pair of a split; saved as `<split>-index.safetensors`."""

    shard_I: Numbers
    """(I,) int32: number of the shard."""
    start_I: Numbers
    """(I,) int64: first content byte of the image."""
    size_I: Numbers
    """(I,) int64: bytes of the image."""
    crc_I: Numbers
    """(I,) uint32: CRC-32 of the image."""
    image_path: Strings
    """(I) names the image in messages, and keys its random choices."""
    identity_I: Numbers
    """(I,) int64: dense identities from 0."""
    image_N: Numbers
    """(N,) int64: image of each pair."""
    caption_number_N: Numbers
    """(N,) int64: which caption of the image."""
    caption: Strings
    """(N)."""
    by_identity_N: Numbers | None = None
    """(N,) int64: pairs by identity and number; None where they lie so already, or before format 5."""
    attribute_IA: Numbers | None = None
    """(I, A) in {0, 1, -1}; None where there are none."""
    maps: Mapping[LabelSetName, MapPlaces] = field(default_factory=dict)
    """Parsing maps by label set; empty where the shards bring none."""

    @classmethod
    def of(cls, file: StoredBytes) -> MemberTable:
        """The table that a file holds, read row by row."""
        columns = open_columns(file)
        maps: dict[LabelSetName, MapPlaces] = {}
        # Before format 4 there was one label set, which columns did not name.
        for prefix, label_set in (("parsing", "atr"), *((f"parsing_{name}", name) for name in get_args(LabelSetName))):
            if f"{prefix}_start_I" in columns:
                places = {name: columns.pop(f"{prefix}_{name}") for name in ("start_I", "size_I", "crc_I")}
                maps[cast(LabelSetName, label_set)] = MapPlaces(**cast(dict[str, Any], places))
        return cls(**cast(dict[str, Any], columns), maps=maps)

    def columns(self) -> dict[str, Column]:
        """What a file of it holds, by name."""
        plain = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "maps"}
        for label_set, places in self.maps.items():
            plain |= {f"parsing_{label_set}_{name}": column for name, column in vars(places).items()}
        return {name: cast(Column, column) for name, column in plain.items() if column is not None}

    def with_identities(self) -> MemberTable:
        """The same with `by_identity_N` where it is needed, for a table in memory."""
        identity_N = np.asarray(self.identity_I)[np.asarray(self.image_N)]
        if (identity_N[1:] >= identity_N[:-1]).all():
            return self
        return dataclasses.replace(self, by_identity_N=np.argsort(identity_N, kind="stable"))


def read_index(root: str, *, cache: Path, patience_s: float = PATIENCE_S) -> dict[str, ShardSplit]:
    """The splits of a shard folder or URL. ValueError: no index, or one that this version cannot read."""
    return splits_in(read_content(root, cache=cache, patience_s=patience_s), root)


def read_content(root: str, *, cache: Path, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """`tbps-index.json` of a shard folder or URL, of any format. ValueError: there is none."""
    remote = is_remote(root)
    place = shown(join(root, INDEX_NAME)) if remote else str(Path(root) / INDEX_NAME)
    try:
        text = _remote_text(root, cache, patience_s) if remote else Path(place).read_text(encoding="utf-8")
        content: dict[str, Any] = json.loads(text)
        content["format"], content["splits"]  # they have to be there
    except FileNotFoundError:
        raise ValueError(
            f'{root} holds no {INDEX_NAME}; give a folder made by "tbps data shard", or run "tbps data index" on its tars'
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{place} is no shard index ({error}); {ADVICE}") from error
    return content


def _remote_text(root: str, cache: Path, patience_s: float) -> str:
    try:
        return read_text(join(root, INDEX_NAME), cache=cache, patience_s=patience_s)
    except ValueError as error:
        raise ValueError(
            f'{error}; shards need this file: "tbps data shard" makes it, and "tbps data index" for tars of other tools'
        ) from error


def splits_in(content: dict[str, Any], root: str) -> dict[str, ShardSplit]:
    """The splits of a content of this format; ValueError names what to do about another one."""
    if (version := content["format"]) not in READABLE:
        advice = f'run "tbps data index {root}" once, which leaves the shards as they are'
        if is_remote(root):
            advice = 'run "tbps data index" once on the folder behind it, which leaves the shards as they are'
        if version != 1:
            advice = "create the shards again, or use the version of tbps that made them"
        raise ValueError(f"shards at {shown(root)} have index format {version}, expected {FORMAT_VERSION}; {advice}")
    return {name: _split(split) for name, split in content["splits"].items()}


def _split(entry: Mapping[str, Any]) -> ShardSplit:
    pieces = entry.get("pieces")
    stored = {
        "index": StoredFile(**entry["index"]),
        "shards": tuple(StoredFile(**one) for one in entry["shards"]),
        "pieces": StoredFile(**pieces) if pieces else None,
    }
    return ShardSplit(**{**entry, **stored})


def write_table(folder: Path, split: str, table: MemberTable, shards: tuple[StoredFile, ...]) -> ShardSplit:
    """Write the table of `split` into `folder`, all of it or nothing, and describe it."""
    path = folder / f"{split}-index.safetensors"
    temporary = folder / f".{path.name}.{uuid.uuid4().hex}"
    table = table.with_identities()
    try:
        write_columns(temporary, table.columns())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return ShardSplit(
        index=StoredFile.of(path, below=folder),
        shards=shards,
        num_pairs=len(table.caption),
        num_images=len(table.identity_I),
        num_identities=int(np.asarray(table.identity_I).max()) + 1,
        pieces=write_pieces(path),
        by_identity=True,
    )


def write_pieces(table: Path) -> StoredFile:
    """Write the CRC-32 of each piece of a table beside it, all of them or nothing."""
    path = table.with_suffix(".crc32")
    temporary = table.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        piece_crcs(table).astype("<u4").tofile(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return StoredFile.of(path, below=table.parent)


def write_index(
    folder: Path, benchmark: str, splits: dict[str, ShardSplit], *, chunks: list[dict[str, Any]] | None = None
) -> None:
    """Write `tbps-index.json`, all of it or nothing. chunks: see tbps/data/shard_chunks.py; None = as they are."""
    if chunks is None and (folder / INDEX_NAME).exists():
        chunks = read_content(str(folder), cache=folder).get("chunks")
    content = {
        "format": FORMAT_VERSION,
        "benchmark": benchmark,
        "splits": {name: dataclasses.asdict(split) for name, split in splits.items()},
        "chunks": chunks or [],
    }
    temporary = folder / f".{INDEX_NAME}.{uuid.uuid4().hex}"
    try:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(temporary, folder / INDEX_NAME)
    finally:
        temporary.unlink(missing_ok=True)
