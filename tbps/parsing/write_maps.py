"""Write the parsing maps of a data set: shared by processes, batch by batch, and gone on with where it was stopped.

Images are cut into batches in the order of the annotations, whatever the number of processes and whatever is there already:
a map does not depend on who makes it nor on what was made before.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tbps.config.data import Benchmark, LabelSetName
from tbps.data.annotations import read_annotations
from tbps.data.image_files import ImageFiles
from tbps.data.images import decode
from tbps.data.label_maps import IMAGE_DIGEST, encode_map, map_path
from tbps.data.parsing_cache import Manifest, cache_folder, missing_maps, read_manifest, write_manifest, write_whole
from tbps.parsing.parser import Parser

IMAGES = "images.sha256"
"""File beside the manifest, as sha256sum writes it: of which image files the maps are."""
AHEAD = 2
"""Batches that are read while one is parsed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Image:
    path: str
    file_bytes: bytes
    pixels_HWC: NDArray[np.uint8]
    prepared: Any


def images_to_parse(root: Path, benchmark: Benchmark) -> list[str]:
    """All images of the data set. ValueError: two of them would have the same map."""
    splits = read_annotations(root, benchmark).splits.values()
    paths = list(dict.fromkeys(path for split in splits for path in split.image_path))
    image_of: dict[str, str] = {}
    for path in paths:
        other = image_of.setdefault(map_path(path, "atr").as_posix(), path)
        if other != path:
            raise ValueError(
                f"images {other} and {path} differ in their ending alone, so that their parsing maps would have one name;"
                " rename one of them"
            )
    return paths


def write_maps(
    root: Path,
    benchmark: Benchmark,
    image_paths: Sequence[str],
    parser: Parser,
    *,
    batch_images: int,
    workers: int,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write what is missing of this process's share, or was made of another image file; returns how many maps those were.

    `workers` threads read images. share: which of how many processes this is. progress: called with (images done, images of
    this share). ValueError: the folder holds maps of another parser, or an image or a map cannot be had.
    """
    label_set = parser.manifest.label_set
    _begin(root, parser.manifest)
    batches = [image_paths[first : first + batch_images] for first in range(0, len(image_paths), batch_images)]
    own = batches[share[0] :: share[1]]
    total, done, written = sum(map(len, own)), 0, 0
    for batch, images in _read_ahead(root, ImageFiles(root, benchmark), own, parser, workers):
        if images:
            maps = parser.parse([image.prepared for image in images], [_size(image.pixels_HWC) for image in images])
            for image, labels_HW in zip(images, maps, strict=True):
                written += _write_map(root, image, label_set, labels_HW)
        done += len(batch)
        progress(done, total)
    if not missing_maps(root, label_set, image_paths):  # the last process finds them all
        _write_images(root, label_set, image_paths)
    return written


def _begin(root: Path, manifest: Manifest) -> None:
    """Say who makes the maps, or see that it is the parser with which they were begun."""
    folder = cache_folder(root, manifest.label_set)
    begun = read_manifest(root, manifest.label_set)
    there = [entry for entry in folder.iterdir() if not entry.name.startswith(".")] if folder.is_dir() else []
    if begun is None and there:
        raise ValueError(
            f"{folder} holds files and no manifest, so that nobody knows what their labels are; move it away (maps that SCHP"
            f" made are taken from there by --parser schp-{manifest.label_set}:FOLDER)"
        )
    if begun is not None and begun != manifest:
        raise ValueError(
            f"{folder} holds maps of {_who(begun)}, expected {_who(manifest)}; remove the folder to write all of them anew,"
            " or go on with the parser with which they were begun"
        )
    if begun is None:
        write_manifest(root, manifest)


def _who(manifest: Manifest) -> str:
    digest = f" with sha256 {manifest.parser_sha256[:12]}" if manifest.parser_sha256 else ""
    return f"{manifest.parser}{digest}"


def _read_ahead(
    root: Path, files: ImageFiles, batches: Sequence[Sequence[str]], parser: Parser, workers: int
) -> Iterator[tuple[Sequence[str], list[_Image]]]:
    """Each batch with its images: all of them where a map is missing, none where all are there."""
    of_images, of_batches = ThreadPoolExecutor(max(1, workers)), ThreadPoolExecutor(AHEAD)

    def load(batch: Sequence[str]) -> list[_Image]:
        label_set = parser.manifest.label_set
        looked = list(of_images.map(lambda path: _look(root, files, label_set, path), batch))
        if all(current for _, current in looked):
            return []
        return list(of_images.map(lambda path, found: _prepare(parser, path, found[0]), batch, looked))

    waiting: deque[tuple[Sequence[str], Future[list[_Image]]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, of_batches.submit(load, batch)))
            if len(waiting) > AHEAD:
                first, images = waiting.popleft()
                yield first, images.result()
        while waiting:
            first, images = waiting.popleft()
            yield first, images.result()
    finally:
        of_batches.shutdown(wait=False, cancel_futures=True)
        of_images.shutdown(cancel_futures=True)


def _look(root: Path, files: ImageFiles, label_set: LabelSetName, path: str) -> tuple[bytes, bool]:
    """The image file, and whether there is a map of it."""
    content = files.read(path)
    return content, _made_of(root / map_path(path, label_set)) == hashlib.sha256(content).hexdigest()


def _prepare(parser: Parser, path: str, file_bytes: bytes) -> _Image:
    pixels_HWC = decode(file_bytes, key=path)
    return _Image(path=path, file_bytes=file_bytes, pixels_HWC=pixels_HWC, prepared=parser.prepare(path, pixels_HWC))


def _made_of(map_file: Path) -> str:
    """Digest of the image file that a map was made of; empty where there is no map, or it does not say."""
    try:
        with Image.open(map_file) as labels:
            return str(labels.info.get(IMAGE_DIGEST, ""))
    except (OSError, SyntaxError, ValueError):
        return ""


def _size(pixels_HWC: NDArray[np.uint8]) -> tuple[int, int]:
    return pixels_HWC.shape[0], pixels_HWC.shape[1]


def _write_map(root: Path, image: _Image, label_set: LabelSetName, labels_HW: NDArray[np.uint8]) -> bool:
    """Write a map, all of it or nothing, unless the same is there; whether it was written."""
    content, file = encode_map(labels_HW, label_set, image_bytes=image.file_bytes), root / map_path(image.path, label_set)
    if file.is_file() and file.read_bytes() == content:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    # A name that the next attempt takes again: a process that is killed leaves nothing for ever.
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(content)
    partial.rename(file)
    return True


def _write_images(root: Path, label_set: LabelSetName, image_paths: Sequence[str]) -> None:
    """Write the digests of all images of which there are maps, as the maps say."""
    lines = [f"{_made_of(root / map_path(path, label_set))}  {path}\n" for path in sorted(image_paths)]
    write_whole(cache_folder(root, label_set) / IMAGES, "".join(lines).encode(errors="surrogateescape"))
