import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tbps.data.chunk_cache import ChunkCache, build_chunk_cache
from tbps.data.chunks import BuiltinChunker, ContentWord

CAPTIONS = ["a red coat", "a long black shirt and blue jeans", "nothing of note", ""]


class Counting:
    """The built-in chunker, and how many captions it was asked for."""

    def __init__(self, name: str = "counting 1") -> None:
        self.name = name
        self.asked: list[str] = []
        self._chunker = BuiltinChunker()

    def words(self, captions: Iterable[str]) -> Iterator[tuple[ContentWord, ...]]:
        for caption in captions:
            self.asked.append(caption)
            yield from self._chunker.words([caption])


def test_memory_is_used_and_bounded() -> None:
    chunker = Counting()
    cache = ChunkCache(chunker, keep=2)
    expected = list(BuiltinChunker().words(["a red coat"] * 3))
    assert list(cache.words(["a red coat"] * 3)) == expected
    assert isinstance(expected[0][0], ContentWord)
    assert chunker.asked == ["a red coat"]
    list(cache.words(["x", "y"]))
    assert len(cache) == 2
    list(cache.words(["a red coat"]))
    assert chunker.asked == ["a red coat", "x", "y", "a red coat"]


def test_file_is_reused(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "chunks.safetensors"
    first = Counting()
    cache = build_chunk_cache([*CAPTIONS, *CAPTIONS], first, path)
    assert first.asked == CAPTIONS
    expected = list(BuiltinChunker().words(CAPTIONS))
    assert list(cache.words(CAPTIONS)) == expected
    second = Counting()
    assert list(ChunkCache(second, path=path).words(CAPTIONS)) == expected
    written = path.stat().st_mtime_ns
    build_chunk_cache(CAPTIONS, second, path)
    assert second.asked == []
    assert path.stat().st_mtime_ns == written
    build_chunk_cache([*CAPTIONS, "a new hat"], second, path)
    assert second.asked == ["a new hat"]
    assert [entry.name for entry in path.parent.iterdir()] == ["chunks.safetensors"]


def test_another_chunker_does_not_see_the_entries(tmp_path: Path) -> None:
    path = tmp_path / "chunks.safetensors"
    build_chunk_cache(CAPTIONS, Counting(), path)
    other = Counting("counting 2")
    build_chunk_cache(CAPTIONS, other, path)
    assert other.asked == CAPTIONS
    again = Counting()
    list(ChunkCache(again, path=path).words(CAPTIONS))
    assert again.asked == []


def test_pickled_cache_needs_no_file(tmp_path: Path) -> None:
    path = tmp_path / "chunks.safetensors"
    cache = build_chunk_cache(CAPTIONS, Counting(), path)
    path.unlink()
    again = pickle.loads(pickle.dumps(cache))
    asked = len(again.chunker.asked)
    assert list(again.words(CAPTIONS)) == list(cache.words(CAPTIONS))
    assert len(again.chunker.asked) == asked


WRITER = """
import sys, time
from pathlib import Path
from tbps.data.chunk_cache import build_chunk_cache
from tbps.data.chunks import ContentWord

class Lengths:
    name = "lengths"
    def words(self, captions):
        for caption in captions:
            yield (ContentWord(0, len(caption), 0),)

path, who = Path(sys.argv[1]), sys.argv[2]
path.with_name(who).touch()
while not (path.with_name("one").exists() and path.with_name("two").exists()):
    time.sleep(0.001)
for turn in range(25):
    captions = ["x" * n + who for n in range(turn + 1)]
    cache = build_chunk_cache(captions, Lengths(), path)
    assert [words[0].end for words in cache.words(captions)] == [len(caption) for caption in captions]
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "chunks.safetensors"
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), who]) for who in ("one", "two")]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["chunks.safetensors", "one", "two"]
    # The last to write had all its own captions; of the other's, those it saw.
    chunker = Counting("lengths")
    captions = ["x" * n + who for who in ("one", "two") for n in range(25)]
    assert len(ChunkCache(chunker, path=path)) >= 25
    cache = build_chunk_cache(captions, chunker, path)
    assert len(cache) == 50
    kept = [caption for caption in captions if caption not in chunker.asked]
    assert [words[0].end for words in cache.words(kept)] == [len(caption) for caption in kept]


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "chunks.safetensors"
    build_chunk_cache(CAPTIONS, BuiltinChunker(), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"chunk cache .* cannot be read .*; remove it and it is made again"):
        ChunkCache(BuiltinChunker(), path=path)
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"chunk cache .* holds weight, expected first, key_N, word_M3; it is another file"):
        build_chunk_cache(CAPTIONS, BuiltinChunker(), path)
