"""The parsing maps of a data set: a folder for each label set, `parsing/atr` and so on, with a manifest and a map per image.

See `tbps.data.label_maps` for the maps.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps.config.data import Benchmark, LabelSetName
from tbps.data.image_files import ImageFiles
from tbps.data.json_file import read_json
from tbps.data.label_maps import ADVICE, PARSING, check_map, map_path
from tbps.data.label_sets import LABEL_SETS

MANIFEST = "manifest.json"
SAMPLE = 64
"""Maps that are looked into at the start of a run; `tbps data doctor --decode` looks into all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What the maps of a folder mean and who made them."""

    label_set: LabelSetName
    parser: str
    """What made the maps, by name."""
    parser_sha256: str | None
    """Digest of the model, or of the files that another tool wrote; None where there is none."""

    def content(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "label_set": self.label_set,
            "labels": list(LABEL_SETS[self.label_set].labels),
            "parser": self.parser,
            "parser_sha256": self.parser_sha256,
        }


def cache_folder(root: Path, label_set: LabelSetName) -> Path:
    """Where the maps of a label set lie, of the data set at `root`."""
    return root / PARSING / label_set


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write the manifest into its folder, all of it or nothing."""
    path = cache_folder(root, manifest.label_set) / MANIFEST
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(manifest.content(), indent=2) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file into a folder that is there, all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_manifest(root: Path, label_set: LabelSetName) -> Manifest | None:
    """The manifest of a label set; None where there is none. ValueError: it is another file, or of other labels."""
    path = cache_folder(root, label_set) / MANIFEST
    if not path.is_file():
        return None
    content, names = read_json(path), LABEL_SETS[label_set].labels
    if not isinstance(content, Mapping) or content.get("label_set") != label_set or content.get("labels") != list(names):
        found = content.get("label_set") if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"{path} is of label set {found!r}, expected {label_set!r} with the labels {', '.join(names)}; move the folder"
            " to its place, or write the maps again with tbps parse"
        )
    return Manifest(
        label_set=label_set, parser=str(content.get("parser", "")), parser_sha256=content.get("parser_sha256") or None
    )


def label_sets_of(root: Path) -> list[LabelSetName]:
    """The label sets of which the data set has a folder with a manifest."""
    return [name for name in LABEL_SETS if (cache_folder(root, name) / MANIFEST).is_file()]


def missing_maps(root: Path, label_set: LabelSetName, image_paths: Iterable[str]) -> list[str]:
    """Those of the images that have no map, found by listing folders: no file is opened."""
    listed: dict[str, set[str]] = {}
    missing = []
    for image_path in image_paths:
        folder, _, name = map_path(image_path, label_set).as_posix().rpartition("/")
        if folder not in listed:
            try:
                listed[folder] = set(os.listdir(root / folder))
            except (FileNotFoundError, NotADirectoryError):
                listed[folder] = set()
        if name not in listed[folder]:
            missing.append(image_path)
    return missing


def check_cache(root: Path, benchmark: Benchmark, label_set: LabelSetName, image_paths: Sequence[str]) -> None:
    """ValueError: the data set has no maps of the set, an image has none, or one of a sample is no map of its image."""
    title, advice = LABEL_SETS[label_set].title, f"tbps parse {root} --benchmark {benchmark} --parser NAME"
    if read_manifest(root, label_set) is None:
        others = ", ".join(LABEL_SETS[name].title for name in label_sets_of(root))
        raise ValueError(
            f"{root} has no parsing maps of {title}: {cache_folder(root, label_set) / MANIFEST} is not there"
            + (f", maps are of {others}" if others else "")
            + f"; write them with {advice}"
        )
    if missing := missing_maps(root, label_set, image_paths):
        others = f" (nor have {len(missing) - 1:,} others)" if len(missing) > 1 else ""
        place = root / map_path(missing[0], label_set)
        raise ValueError(f"image {missing[0]}{others} has no parsing map of {title}: {place} is not there; {ADVICE}")
    files = ImageFiles(root, benchmark)
    for image_path in image_paths[:: max(1, -(-len(image_paths) // SAMPLE))]:
        if problem := problem_of(root, files, label_set, image_path):
            raise ValueError(f"image {image_path}, parsing map of {title}: {problem}")


def problem_of(root: Path, files: ImageFiles, label_set: LabelSetName, image_path: str) -> str:
    """Why the map of an image cannot be used; empty where it can, or where the image itself cannot be read."""
    try:
        image_bytes = files.read(image_path)
    except ValueError:
        return ""
    try:
        check_map((root / map_path(image_path, label_set)).read_bytes(), LABEL_SETS[label_set], image_bytes=image_bytes)
    except ValueError as error:
        return str(error)
    return ""
