"""What a file is that is not what its name says: a download that brought something else."""

from __future__ import annotations

from collections.abc import Sequence

_PREFIXES: Sequence[tuple[bytes, str]] = (
    (b"version https://git-lfs", 'a git-lfs pointer; fetch the file itself with "git lfs pull"'),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\xfd7zXZ", "an xz archive; unpack it"),
    (b"BZh", "a bzip2 archive; unpack it"),
    (b"Rar!", "a rar archive; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"\0" * 32, "a file of zero bytes, as an unfinished download leaves it; download it again"),
)


def impostor(content: bytes) -> str | None:
    """What `content` is, if it is a known stand-in for the file that was wanted, and what to do; else None.

    Example: `impostor(b"<!DOCTYPE html>...")` is 'a web page; download the file itself'.
    """
    start = content[:512].removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start and not content.strip():
        return "an empty file; download it again"
    if start[:1] == b"<" and any(tag in start.lower() for tag in (b"<html", b"<!doctype", b"<?xml", b"<head", b"<body")):
        return "a web page; download the file itself"
    return next((what for prefix, what in _PREFIXES if content.startswith(prefix)), None)
