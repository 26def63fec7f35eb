"""Writes a world's annotation files, and what else lies in its folder beside images and maps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tbps.config.data import Benchmark
from tbps.data.label_maps import PARSING
from tbps.data.parsing_cache import Manifest, write_manifest
from tbps.synthetic.formats import FORMATS, parts_of
from tbps.synthetic.parsing import LABEL_SETS
from tbps.synthetic.row_files import RowFile

MARKER = "synthetic_world.json"
"""Says that a folder was written by us, with which arguments, and whether it is complete."""
PEOPLE = "people.jsonl"
"""The truth behind the images, one identity a line: attributes, twin, views, cameras, occluders; not in all formats."""


class AnnotationWriter:
    """The annotation files of a benchmark; a context manager."""

    def __init__(self, root: Path, benchmark: Benchmark) -> None:
        self._root = root
        self._benchmark = benchmark
        self._files: dict[str, RowFile] = {}
        self._people = (root / PEOPLE).open("w", encoding="utf-8") if FORMATS[benchmark].people else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files.values():
            file.close(complete=kind is None)
        if self._people is not None:
            self._people.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row to the file that it belongs to, or to each of several a part of it."""
        for name, form, part in parts_of(self._benchmark, row):
            if name not in self._files:
                self._files[name] = RowFile(self._root / name, form)
            self._files[name].add(part)

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
    ours |= {folder for form in FORMATS.values() for folder in form.folders}
    begun = {path.name for path in root.glob("*.partial")}  # by a call that was killed
    for name in sorted(ours | begun | {PARSING, PEOPLE}):
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
