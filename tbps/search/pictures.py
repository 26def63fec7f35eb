"""Where pictures come from: a folder, a list of files, or shards; which files are there, and their bytes.

A picture's path is what stands after the root, as the operating system's bytes (names need not be UTF-8). Nothing outside of
the root is ever read: symbolic links that lead out of it are told and left alone.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tbps.data.shard_index import INDEX_NAME
from tbps.data.shards import ShardPairs
from tbps.runs.atomic_file import words_of

EXTENSIONS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".tga", ".ico", ".mpo"),
    }
)
"""Names that end otherwise are taken for no pictures, unread."""
VIDEOS = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
        *(".wmv", ".asf", ".flv", ".3gp", ".ogv", ".mjpeg"),
    }
)
"""Names that end so are taken for videos."""
MAX_FILE_BYTES = 1 << 29
"""A larger file is no photograph, and reading it would fill the memory. Of videos there may be more."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file that may be a picture."""

    path: bytes
    """Below the root."""
    size: int
    """Bytes."""
    stamp: int
    """Changes with the content: the time of change of a file in nanoseconds, the checksum of a shard's member."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is not looked at, and why."""

    path: bytes
    reason: str


@dataclass(slots=True)
class Listing:
    """All that lies below a root."""

    found: list[Found] = field(default_factory=list)
    """By path, ascending."""
    problems: list[Problem] = field(default_factory=list)
    """What is no picture, may not be read, or leads out."""
    unread: list[bytes] = field(default_factory=list)
    """Folders that could not be listed, each with a slash behind: what lies there is not known to be gone."""


class Pictures(Protocol):
    """A source of pictures."""

    reads_ahead: bool
    """Whether other processes may read by copies of this object: it is small."""

    @property
    def root(self) -> str:
        """Where they lie, as a manifest tells it."""

    def listing(self) -> Listing:
        """What is there now. ValueError: the root itself cannot be used."""

    def read(self, path: bytes) -> bytes:
        """The file's bytes. ValueError says why they cannot be had; OSError: the disk failed."""

    def open(self, path: bytes) -> io.BufferedIOBase:
        """The file, to be read in parts. ValueError says why it cannot be had."""


class FolderPictures:
    """All files below a folder, at any depth. Picklable."""

    reads_ahead = True

    def __init__(self, folder: Path, *, without: Path | None = None, videos: bool = False) -> None:
        """without: a folder that is passed over where it lies inside, the index itself; videos: they are listed, too."""
        self._videos = videos
        self._folder = os.path.realpath(folder)
        self._without = None if without is None else os.path.realpath(without)
        if not os.path.isdir(self._folder):
            raise ValueError(
                f"{folder} is no folder, expected one with pictures, a list of files, or shards; check the path"
            )

    @property
    def root(self) -> str:
        """The folder, absolute and without links."""
        return self._folder

    def listing(self) -> Listing:
        """Every file; links to folders are not followed, and links to files only inside of the root."""
        listing = Listing()
        base = os.fsencode(self._folder)
        waiting = [b""]
        while waiting:
            inside = waiting.pop()
            try:
                with os.scandir(os.path.join(base, inside)) as entries:
                    for entry in entries:
                        self._look(entry, inside, listing, waiting)
            except OSError as error:
                if not inside:
                    raise ValueError(f"{self._folder} cannot be read ({words_of(error)}); check its permissions") from error
                listing.unread.append(inside)
                listing.problems.append(Problem(inside, f"a folder that cannot be read ({words_of(error)})"))
        return _in_order(listing)

    def _look(self, entry: os.DirEntry[bytes], inside: bytes, listing: Listing, waiting: list[bytes]) -> None:
        path = inside + entry.name
        if entry.is_symlink():
            reason = self._why_not_followed(path)
            if reason:
                listing.problems.append(Problem(path, reason))
                return
        elif entry.is_dir():
            if os.fsdecode(entry.path) != self._without:
                waiting.append(path + b"/")
            return
        try:
            _add(listing, path, entry.stat(), videos=self._videos)
        except OSError as error:
            listing.problems.append(Problem(path, f"cannot be looked at ({words_of(error)})"))

    def _why_not_followed(self, path: bytes) -> str:
        """Why a symbolic link is left alone; empty where it leads to a file inside of the root."""
        base = os.fsencode(self._folder)
        target = os.path.realpath(os.path.join(base, path))
        if target != base and not _is_inside(target, base):
            return "a symbolic link out of the folder, which is not followed"
        if os.path.isdir(target):
            return "a symbolic link to a folder, whose pictures are indexed where they lie"
        return "" if os.path.exists(target) else "a symbolic link to nowhere"

    def read(self, path: bytes) -> bytes:
        """The file's bytes, if it lies inside of the root whatever links it goes through."""
        with self.open(path) as file:
            return file.read(MAX_FILE_BYTES + 1)

    def open(self, path: bytes) -> io.BufferedIOBase:
        """The file, if it lies inside of the root whatever links it goes through."""
        base = os.fsencode(self._folder)
        target = os.path.realpath(os.path.join(base, path))
        if not _is_inside(target, base):
            raise ValueError(f"it leads out of {self._folder}")
        return _opened(target)


class ListedPictures(FolderPictures):
    """The files that a text names, one a line, as paths below its folder or absolute ones inside of that."""

    def __init__(self, listed: Path, *, root: Path | None = None, videos: bool = False) -> None:
        """root: the folder below which the paths are, where it is not the text's own."""
        super().__init__(listed.parent if root is None else root, videos=videos)
        self._listed = listed

    def listing(self) -> Listing:
        """Every file that is named, once; lines that lead nowhere or out of the folder are problems."""
        listing = Listing()
        base = os.fsencode(self._folder)
        lines = dict.fromkeys(line.rstrip(b"\r") for line in self._listed.read_bytes().split(b"\n") if line.strip())
        if not lines:
            raise ValueError(f"{self._listed} names no file, expected a path on each line; check the list")
        for line in lines:
            place = os.path.normpath(os.path.join(base, line))
            if not _is_inside(os.path.realpath(place), base) or not _is_inside(place, base):
                listing.problems.append(Problem(line, f"leads out of {self._folder}; --root names another folder"))
                continue
            path = os.path.relpath(place, base)
            try:
                status = os.stat(place)
            except OSError as error:
                listing.problems.append(Problem(path, f"cannot be looked at ({words_of(error)})"))
                continue
            if stat.S_ISDIR(status.st_mode):
                listing.problems.append(Problem(path, "a folder, expected a file"))
            else:
                _add(listing, path, status, videos=self._videos)
        listing.found = list(dict.fromkeys(listing.found))
        return _in_order(listing)


class ShardPictures:
    """The images of a split of our shards, by the paths that they had in the data set."""

    reads_ahead = False

    def __init__(self, folder: Path, split: str) -> None:
        self._folder = os.path.realpath(folder)
        self._pairs = ShardPairs(self._folder, split, cache=folder)
        self._pair_of: dict[bytes, int] = {}

    @property
    def root(self) -> str:
        """The folder of the shards, absolute and without links."""
        return self._folder

    def listing(self) -> Listing:
        """Every image once."""
        listing = Listing()
        self._find()
        for path, pair in self._pair_of.items():
            size, crc = self._pairs.image_size_and_crc(pair)
            listing.found.append(Found(path, size, crc))
        return _in_order(listing)

    def _find(self) -> None:
        if not self._pair_of:
            for pair in range(len(self._pairs)):
                path = self._pairs.key(pair).rpartition("#")[0]
                self._pair_of.setdefault(path.encode(errors="surrogateescape"), pair)

    def read(self, path: bytes) -> bytes:
        """The member's bytes."""
        self._find()
        if path not in self._pair_of:
            raise ValueError(f"the shards at {self._folder} hold no such image")
        return self._pairs.image_bytes(self._pair_of[path])

    def open(self, path: bytes) -> io.BufferedIOBase:
        """The member, as a file."""
        return io.BytesIO(self.read(path))


def open_pictures(
    source: Path, *, index: Path, root: Path | None = None, split: str = "train", videos: bool = False
) -> Pictures:
    """What `source` is: a folder of shards, any other folder, or a list of files. ValueError: it is none.

    index: passed over inside of a folder; root: of a list; split: of shards; videos: they are listed, too.
    """
    if (source / INDEX_NAME).is_file():
        return ShardPictures(source, split)
    if source.is_file():
        return ListedPictures(source, root=root, videos=videos)
    return FolderPictures(source, without=index, videos=videos)


def is_video(path: bytes) -> bool:
    """By its name."""
    return _extension(path) in VIDEOS


def _extension(path: bytes) -> str:
    return os.path.splitext(path)[1].lower().decode(errors="replace")


def _add(listing: Listing, path: bytes, status: os.stat_result, *, videos: bool) -> None:
    extension = _extension(path)
    if not stat.S_ISREG(status.st_mode):
        listing.problems.append(Problem(path, "no file: a pipe, a socket or a device"))
    elif extension in VIDEOS and not videos:
        listing.problems.append(Problem(path, "a video, whose frames are indexed with --video-every-s SECONDS"))
    elif extension in VIDEOS:
        listing.found.append(Found(path, status.st_size, status.st_mtime_ns))
    elif extension and extension not in EXTENSIONS:
        listing.problems.append(Problem(path, f"no picture by its name ({extension})"))
    elif status.st_size > MAX_FILE_BYTES:
        listing.problems.append(Problem(path, f"{status.st_size:,} bytes, expected at most {MAX_FILE_BYTES:,} of a picture"))
    else:
        listing.found.append(Found(path, status.st_size, status.st_mtime_ns))


def _in_order(listing: Listing) -> Listing:
    listing.found.sort(key=lambda found: found.path)
    listing.problems.sort(key=lambda problem: problem.path)
    return listing


def _is_inside(place: bytes, base: bytes) -> bool:
    return place.startswith(base.rstrip(b"/") + b"/")


def _opened(place: bytes) -> io.BufferedIOBase:
    try:
        # A pipe that has taken the file's place must not wait for its writer.
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError(f"it cannot be opened ({words_of(error)})") from error
    file = open(descriptor, "rb")  # noqa: SIM115 - whoever asked for it closes it
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise ValueError("it is no file any more")
    return file


def shown_path(path: bytes) -> str:
    """A path for people: bytes that are no UTF-8 and signs that steer a terminal are written as escapes."""
    text = path.decode(errors="backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
