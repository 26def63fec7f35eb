"""The image files of a data set: the one place that decides whether an image is there and can be read."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from tbps.config.data import Benchmark
from tbps.data.layouts import LAYOUTS

EXTENSIONS = (".jpg", ".png", ".bmp", ".jpeg")
"""Tried in this order where the annotated one is not there."""

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENODEV)
_FORBIDDEN = (errno.EACCES, errno.EPERM)


class MissingImage(ValueError):
    """Nothing of the image's name is below the root."""


class ImageFiles:
    """Finds and reads images: training, shards and the doctor ask the same object. Picklable.

    A path is looked for in every image folder of the layout as it is annotated, then with other capital letters and
    another image extension; folders are listed once for that. The first place that holds a file decides; folders, pipes and
    links to nowhere of that name are passed over, and told of where there is no file.
    """

    def __init__(self, root: Path, benchmark: Benchmark) -> None:
        self._root = str(root)
        self._folders = [os.path.normpath(root / folder) for folder in LAYOUTS[benchmark].image_folders]
        self._listed: dict[str, dict[str, list[str]]] = {}

    def read(self, image_path: str) -> bytes:
        """The file's bytes. ValueError says why they cannot be had; `MissingImage` where nothing is there.

        OSError: the disk failed, not the data set.
        """
        _, descriptor = self._open(image_path)
        with open(descriptor, "rb") as file:
            return file.read()

    def find(self, image_path: str) -> Path:
        """The file that `read` reads; its errors."""
        place, descriptor = self._open(image_path)
        os.close(descriptor)
        return Path(place)

    def same_file_key(self, image_path: str) -> tuple[int, int]:
        """Equal for two paths that lead to one file on the disk; the errors of `read`."""
        _, descriptor = self._open(image_path)
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        return status.st_dev, status.st_ino

    def has_folder(self, folder: str) -> bool:
        """Whether one of the image folders holds `folder`."""
        return any(os.path.isdir(os.path.join(above, folder)) for above in self._folders)

    def _open(self, image_path: str) -> tuple[str, int]:
        """Path and descriptor of the image's file."""
        obstacle = ""
        for place in self._places(image_path):
            try:
                # A pipe must not wait for its writer.
                descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno in _FORBIDDEN:
                    raise ValueError(f"image {image_path}: {place} may not be read ({error.strerror})") from error
                if error.errno not in (*_NOT_THERE, *_NO_FILE):
                    raise
                if error.errno in _NO_FILE or os.path.islink(place):
                    obstacle = obstacle or f"{place} is {_kind(place)}"
                continue
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_size:
                return place, descriptor
            os.close(descriptor)
            if stat.S_ISREG(status.st_mode):
                raise ValueError(f"image {image_path}: {place} is an empty file")
            obstacle = obstacle or f"{place} is {_kind(place)}"
        if obstacle:
            raise ValueError(f"image {image_path}: {obstacle}, expected a file")
        raise MissingImage(f"image {image_path} is not below {self._root}")

    def _places(self, image_path: str) -> Iterator[str]:
        for folder in self._folders:
            yield f"{folder}/{image_path}"
        for folder in self._folders:
            yield from self._spellings(folder, image_path.split("/"))

    def _spellings(self, folder: str, parts: Sequence[str]) -> Iterator[str]:
        """Paths below `folder` that are `parts` but for capital letters and the image's extension, nearest first."""
        first, *inner = parts
        alike = self._listing(folder).get(_fold(_stem(first)), ())
        if inner:
            for name in sorted(alike, key=lambda name: (name != first, name)):
                if _fold(name) == _fold(first):
                    yield from self._spellings(f"{folder}/{name}", inner)
            return
        order = (_extension(first), *EXTENSIONS)
        ranked = [
            (order.index(_extension(name)), _stem(name) != _stem(first), name)
            for name in alike
            if name != first and _extension(name) in order
        ]
        yield from (f"{folder}/{name}" for _, _, name in sorted(ranked))

    def _listing(self, folder: str) -> dict[str, list[str]]:
        """Names in `folder` by what is left of them without capital letters and image extension."""
        if folder not in self._listed:
            listing: dict[str, list[str]] = {}
            try:
                for name in os.listdir(folder):
                    listing.setdefault(_fold(_stem(name)), []).append(name)
            except OSError as error:
                if error.errno not in (*_NOT_THERE, *_NO_FILE, *_FORBIDDEN):
                    raise
            self._listed[folder] = listing
        return self._listed[folder]


def alike(image_path: str) -> str:
    """Equal for paths that `ImageFiles` may find in one file."""
    return _fold(_stem(image_path))


def _fold(name: str) -> str:
    # Some disks keep accents apart from their letters.
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def _extension(name: str) -> str:
    extension = f".{name.rpartition('.')[2].lower()}"
    return extension if extension in EXTENSIONS else ""


def _stem(name: str) -> str:
    """`name` without an image extension; "0001.c1" has none."""
    return name[: -len(extension)] if (extension := _extension(name)) else name


def _kind(place: str) -> str:
    try:
        mode = os.stat(place).st_mode
    except OSError:
        return "a link to nowhere"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
