"""Writes a world's annotation files row by row, so that a million rows never lie in memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tbps.config.data import Benchmark
from tbps.data.label_maps import PARSING
from tbps.data.parsing_cache import Manifest, write_manifest
from tbps.synthetic.formats import FORMATS
from tbps.synthetic.parsing import LABEL_SETS

MARKER = "synthetic_world.json"
"""Says that a folder was written by us, with which arguments, and whether it is complete."""
PEOPLE = "people.jsonl"
"""The truth behind the images, one identity a line: attributes, twin, views, cameras, occluders (not for MALS)."""


class JsonRows:
    """A JSON list on disk that grows row by row; it takes its name when it is closed without an error.

    before, after: what stands round the list in the file.
    """

    def __init__(self, path: Path, *, before: str = "", after: str = "") -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = self._partial.open("w", encoding="utf-8")
        self._file.write(before + "[")
        self._separator, self._after = "\n", after

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        self._file.write(self._separator + json.dumps(row))
        self._separator = ",\n"

    def close(self, *, complete: bool) -> None:
        """End the list and give the file its name, or remove what there is."""
        if complete:
            self._file.write("" if self._separator == "\n" else "\n")
            self._file.write(f"]{self._after}\n")
        self._file.close()
        if complete:
            os.replace(self._partial, self._path)
        else:
            self._partial.unlink()


class AnnotationWriter:
    """The annotation file of a benchmark, or the files of MALS one after the other; a context manager."""

    def __init__(self, root: Path, benchmark: Benchmark) -> None:
        self._root = root
        self._benchmark = benchmark
        self._rows: JsonRows | None = None
        self._name = ""
        self._people = None if benchmark == "mals" else (root / PEOPLE).open("w", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._rows is not None:
            self._rows.close(complete=kind is None)
        if self._people is not None:
            self._people.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; MALS rows go to the file of their image's folder."""
        name = FORMATS[self._benchmark].annotation
        if self._benchmark == "mals":
            name = f"{name}/g_{row['image'].split('/')[1]}_attrs.json"
        if name != self._name:
            if self._rows is not None:
                self._rows.close(complete=True)
            around = {"before": '{"images": ', "after": ', "dataset": "coco"}'} if self._benchmark == "coco" else {}
            self._rows, self._name = JsonRows(self._root / name, **around), name
        assert self._rows is not None, "opened above"
        self._rows.add(row)

    def add_person(self, truth: Mapping[str, Any]) -> None:
        """Append one identity to the truth, where the format keeps it."""
        if self._people is not None:
            self._people.write(json.dumps(truth) + "\n")


def prepare_folder(root: Path) -> None:
    """Make `root` an empty folder; files of an earlier world are removed, anything else is a ValueError."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file, expected a folder for the synthetic world; give another path")
    root.mkdir(parents=True, exist_ok=True)
    names = sorted(entry.name for entry in root.iterdir())
    if names and not _is_world(root):
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ValueError(
            f"{root} is not empty (found {shown}) and is no earlier synthetic world; give a new or an empty folder"
        )
    ours = {form.annotation for form in FORMATS.values()} | {form.image_folder for form in FORMATS.values()} - {"."}
    begun = {path.name for path in root.glob("*.partial")}  # by a call that was killed
    for name in sorted(ours | begun | {"gene_crop", "train2014", "val2014", PARSING, PEOPLE}):
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _is_world(root: Path) -> bool:
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(marker, dict) and "num_identities" in marker


def write_marker(root: Path, arguments: Mapping[str, Any], *, complete: bool) -> None:
    """Write what the world was made from."""
    text = json.dumps({"complete": complete, **arguments}, indent=2) + "\n"
    (root / MARKER).write_text(text, encoding="utf-8")


def write_parsing_manifests(root: Path) -> None:
    """Say what the numbers in the parsing maps mean."""
    for label_set in LABEL_SETS:
        write_manifest(root, Manifest(label_set=label_set, parser="synthetic world", parser_sha256=None))
