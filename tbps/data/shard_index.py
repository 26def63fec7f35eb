"""What a folder of shards holds: its files with their digests, and the table of each split.

A folder of shards holds `tbps-index.json` (what there is), one `<split>-index.safetensors` per split (where each image lies,
and every caption) and tar files. Tables are mapped into memory: a start reads no caption, and processes share them.

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
from tbps.data.column import Column, StringColumn, map_columns, write_columns
from tbps.data.remote import PATIENCE_S, is_remote, join, read_text, sha256_of, shown

INDEX_NAME = "tbps-index.json"
FORMAT_VERSION = 4
"""4: parsing maps of several label sets. 3: attributes, and where parsing maps of ATR lie, are in the tables. 2: captions
and image paths are. 1: they are in the shards only."""
READABLE = (2, 3, 4)
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


@dataclass(frozen=True, kw_only=True)
class MapPlaces:
    """Where the parsing maps of one label set lie, each in its image's shard."""

    start_I: NDArray[np.int64]
    """(I,) first content byte."""
    size_I: NDArray[np.int64]
    """(I,) bytes."""
    crc_I: NDArray[np.uint32]
    """(I,) CRC-32."""


@dataclass(frozen=True, kw_only=True)
class MemberTable:
    """Every image and every pair of a split; saved as `<split>-index.safetensors`."""

    shard_I: NDArray[np.int32]
    """(I,) number of the shard."""
    start_I: NDArray[np.int64]
    """(I,) first content byte of the image."""
    size_I: NDArray[np.int64]
    """(I,) bytes of the image."""
    crc_I: NDArray[np.uint32]
    """(I,) CRC-32 of the image."""
    image_path: StringColumn
    """(I) names the image in messages, and keys its random choices."""
    identity_I: NDArray[np.int64]
    image_N: NDArray[np.int64]
    """(N,) image of each pair."""
    caption_number_N: NDArray[np.int64]
    """(N,) which caption of the image."""
    caption: StringColumn
    """(N)."""
    attribute_IA: NDArray[np.int8] | None = None
    """(I, A) in {0, 1, -1}; None where there are none."""
    maps: Mapping[LabelSetName, MapPlaces] = field(default_factory=dict)
    """Parsing maps by label set; empty where the shards bring none."""

    @classmethod
    def map(cls, path: Path) -> MemberTable:
        """Map the file, whose digest has been checked, into memory."""
        columns = map_columns(path)
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
        return {name: column for name, column in plain.items() if column is not None}


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
    return {
        name: ShardSplit(
            **{**split, "index": StoredFile(**split["index"]), "shards": tuple(StoredFile(**one) for one in split["shards"])}
        )
        for name, split in content["splits"].items()
    }


def write_table(folder: Path, split: str, table: MemberTable, shards: tuple[StoredFile, ...]) -> ShardSplit:
    """Write the table of `split` into `folder`, all of it or nothing, and describe it."""
    path = folder / f"{split}-index.safetensors"
    temporary = folder / f".{path.name}.{uuid.uuid4().hex}"
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
        num_identities=int(table.identity_I.max()) + 1,
    )


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
