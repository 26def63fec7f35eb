"""Splits by identity for a user's own pairs: who is in train, val and test is a function of the identities and a seed.

The order of the lines plays no part, nor does how many there are of a person; nobody is in two splits.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tbps.data.readers.own_pairs import SEPARATORS, SPLITS, own_rows
from tbps.data.readers.row import Row

_COLUMN = "split"


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitCount:
    """What came into a split."""

    identities: int
    images: int
    captions: int


def split_pairs(file: Path, out: Path, *, val: float, test: float, seed: int) -> dict[str, SplitCount]:
    """Write the lines of a CSV file or of JSON lines to the new file `out`, with a split for each; returns counts by split.

    val, test: of the identities, a share below 1 or a whole number; an image without identity is one of its own.
    ValueError: a line that cannot be read, a file that has splits already, an image of two identities, a split that would
    get nobody, or `out` exists or would find no images.
    """
    _check_out(file, out)
    rows = list(own_rows(file))
    _check_rows(file, rows)
    split_of = assign_splits({row.identity for row in rows}, val=val, test=test, seed=seed)
    splits = [split_of[row.identity] for row in rows]
    write = _csv_with if file.suffix == ".csv" else _json_with
    text = write(file.read_text(encoding="utf-8-sig"), splits)
    with out.open("x", encoding="utf-8", newline="") as opened:
        opened.write(text)
    return {split: _count([row for row, own in zip(rows, splits, strict=True) if own == split]) for split in SPLITS}


def assign_splits(identities: set[str], *, val: float, test: float, seed: int) -> dict[str, str]:
    """The split of each identity: in the order of their sha256 with the seed, the first are test, the next val.

    So another one more or less moves few others. ValueError: numbers that do not fit.
    """
    total = len(identities)
    sizes = {"test": _size("--test", test, total), "val": _size("--val", val, total)}
    if sum(sizes.values()) >= total:
        raise ValueError(
            f"--val {sizes['val']} and --test {sizes['test']} of {total} identities leave nobody to train on; give less"
        )
    order = sorted(identities, key=lambda identity: hashlib.sha256(f"{seed}\n{identity}".encode()).digest())
    names = ["test"] * sizes["test"] + ["val"] * sizes["val"]
    return dict(itertools.zip_longest(order, names, fillvalue="train"))


def _size(name: str, given: float, total: int) -> int:
    if not given >= 0 or (given >= 1 and given != int(given)):
        raise ValueError(f"{name} is {given:g}, expected a share of 0 to 1, or a whole number of identities")
    size = int(given) if given >= 1 else round(given * total)
    if given and not size:
        raise ValueError(f"{name} {given:g} of {total} identities is nobody; give more, or 0 for no such split")
    return size


def _check_out(file: Path, out: Path) -> None:
    if file.suffix not in (".csv", ".jsonl") or not file.is_file():
        found = "there is no such file" if not file.is_file() else "it is neither .csv nor .jsonl"
        raise ValueError(f"{file} cannot be split: {found}; expected pairs as tbps/data/own_pairs.md tells")
    if out.exists():
        raise ValueError(f"{out} exists and is left as it is; choose another name, or remove it first")
    if out.suffix != file.suffix:
        raise ValueError(f"{out} ends in {out.suffix or 'nothing'}, expected {file.suffix} as {file.name}; change its name")
    if out.absolute().parent != file.absolute().parent:
        raise ValueError(
            f"{out} lies in another folder than {file}, from which the paths of the images go out; write it beside that"
        )


def _check_rows(file: Path, rows: Sequence[Row]) -> None:
    identity_of: dict[str, Row] = {}
    for row in rows:
        first = identity_of.setdefault(row.image_path, row)
        if first.identity != row.identity:
            raise ValueError(
                f"{row.where}: image {row.image_path} has another identity than in {first.where.removeprefix(f'{file}, ')};"
                " correct one of them"
            )
    named = next((row for row in rows if row.split != "train"), None)
    if named is not None:
        raise ValueError(
            f"{named.where} says that its split is {named.split} already; use the file as it is, or remove its splits"
        )


def _csv_with(text: str, splits: Sequence[str]) -> str:
    """The lines with their cells as they are; a column of splits is filled or added."""
    separator = max(SEPARATORS, key=text.partition("\n")[0].count)
    lines = [cells for cells in csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True) if cells]
    names = [name.strip() for name in lines[0]]
    if _COLUMN not in names:
        names.append(_COLUMN)
    place = names.index(_COLUMN)
    written = io.StringIO()
    writer = csv.writer(written, delimiter=separator, lineterminator="\n")
    writer.writerow(names)
    for cells, split in zip(lines[1:], splits, strict=True):
        writer.writerow([*cells[:place], split, *cells[place + 1 :]])
    return written.getvalue()


def _json_with(text: str, splits: Sequence[str]) -> str:
    objects: Iterator[Mapping[str, object]] = (json.loads(line) for line in text.split("\n") if line.strip())
    told = ({**fields, _COLUMN: split} for fields, split in zip(objects, splits, strict=True))
    return "".join(json.dumps(fields, ensure_ascii=False) + "\n" for fields in told)


def _count(rows: Sequence[Row]) -> SplitCount:
    return SplitCount(
        identities=len({row.identity for row in rows}),
        images=len({row.image_path for row in rows}),
        captions=sum(len(row.captions) for row in rows),
    )
