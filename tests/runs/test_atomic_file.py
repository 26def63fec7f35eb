"""Lines that are appended are whole, also after half a line and on a full disk."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tbps.runs.atomic_file import append_line


def test_lines_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    for line in ("a", "b"):
        append_line(file, line)
    assert file.read_bytes() == b"a\nb\n"
    file.write_bytes(b"a\nhal")
    append_line(file, "c")
    assert file.read_bytes() == b"a\nhal\nc\n"


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    append_line(file, "a" * 100)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, limits[1]))  # as on a full disk: the first part of the line still fits
    try:
        with pytest.raises(OSError, match="File too large"):
            append_line(file, "b" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == b"a" * 100 + b"\n"
