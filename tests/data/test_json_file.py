import gzip
import json
from pathlib import Path

import pytest
from tiny_folder import write_folder

from tbps.data.annotations import read_annotations


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_unicode_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    rows[0]["captions"][0] = "A man in a caf\u00e9 coat."
    (tmp_path / "reid_raw.json").write_bytes(json.dumps(rows, ensure_ascii=False).encode(encoding))
    assert read_annotations(tmp_path, "cuhk-pedes").split("train").caption[0] == "A man in a caf\u00e9 coat."


ROWS = b'[{"split": "train", "id": 1, "file_path": "a.jpg", "captions": ["A man."]}]'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"reid_raw.json is not JSON: it is an empty file; download it again"),
        (b" \n" * 600, "it is an empty file"),
        (
            b"\xef\xbb\xbf\r\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
            "it is a web page; download the file itself",
        ),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "it is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
            'a git-lfs pointer; .* with "git lfs pull"',
        ),
        (gzip.compress(ROWS), "it is a gzip archive; unpack it"),
        (bytes(5000), "it is a file of zero bytes, as an unfinished download leaves it"),
        (ROWS[:40], "is not valid JSON: line 1, column .*; the file ends in the middle: download it again"),
        (ROWS[:-2], "the file ends in the middle: download it again"),
        (ROWS[:14], "the file ends in the middle: download it again"),
        (ROWS + ROWS, "Extra data; the file goes on after its list has ended: keep one list of all rows, each of them once"),
        (ROWS.replace(b"1", b"1 1"), "line 1, column .*; correct it there, or download it again"),
        ("[\u201c\u4eba\u201d]".encode("gbk"), r"is not UTF-8 text: byte 1 is 0xa1; save it as UTF-8 or download it again"),
        ("[caf\u00e9]".encode("latin-1"), r"is not UTF-8 text: byte 4 is 0xe9; save it as UTF-8"),
        (b"[" * 200_000, "is not JSON that can be read: .*; download it again"),
        (ROWS.replace(b"1", b"1" * 5000), "is not JSON that can be read: .*; download it again"),
    ],
    ids=lambda value: f"{value:.30}" if isinstance(value, str) else f"{len(value)} bytes",
)
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "reid_raw.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as told:
        read_annotations(tmp_path, "cuhk-pedes")
    assert "reid_raw.json" in str(told.value) and len(str(told.value).splitlines()) == 1
