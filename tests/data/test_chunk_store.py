import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tbps.data.chunk_store import ChunkStore, KeptChunks
from tbps.text.chunks import BuiltinChunker, ContentWord

CAPTIONS = ["a red coat", "a long black shirt and blue jeans", "nothing of note", "", *(f"{n} red hats" for n in range(40))]
PORTIONS = 6


class Counting:
    """The built-in chunker, and the captions that it was asked for."""

    name = "counting 1"

    def __init__(self, *, slow_s: float = 0.0) -> None:
        self.asked: list[str] = []
        self._chunker, self._slow_s = BuiltinChunker(), slow_s

    def words(self, captions: Iterable[str]) -> Iterator[tuple[ContentWord, ...]]:
        for caption in captions:
            time.sleep(self._slow_s)
            self.asked.append(caption)
            yield from self._chunker.words([caption])


def _filled(folder: Path) -> ChunkStore:
    store = ChunkStore(folder, portions=PORTIONS)
    store.find(range(PORTIONS), CAPTIONS, BuiltinChunker())
    return store


def test_kept_chunks_are_those_of_the_chunker(tmp_path: Path) -> None:
    store, chunker = ChunkStore(tmp_path / "deep" / "chunks", portions=PORTIONS), Counting()
    assert store.held() == set()
    store.find(range(PORTIONS), [*CAPTIONS, *CAPTIONS], chunker)
    assert sorted(chunker.asked) == sorted(CAPTIONS), "each caption once"
    assert store.held() == set(range(PORTIONS))
    kept = KeptChunks(store.files, name="counting 1")
    assert list(kept.words(CAPTIONS)) == list(BuiltinChunker().words(CAPTIONS))
    assert isinstance(next(iter(kept.words(["a red coat"])))[0], ContentWord)
    assert len(kept) == len(CAPTIONS)
    naive = Counter(c[w.start : w.end] for c in CAPTIONS for words in BuiltinChunker().words([c]) for w in words)
    assert kept.counts() == naive and naive["red"] == 41
    assert list(pickle.loads(pickle.dumps(kept)).words(CAPTIONS)) == list(kept.words(CAPTIONS))
    assert sorted(file.name for file in store.folder.iterdir()) == [file.name for file in store.files]


def test_only_what_is_missing_is_found(tmp_path: Path) -> None:
    store = _filled(tmp_path)
    store.file(2).unlink()
    store.file(4).unlink()
    chunker = Counting()
    store.find([2], CAPTIONS, chunker)
    assert 0 < len(chunker.asked) < len(CAPTIONS) / 2 and store.held() == {0, 1, 2, 3, 5}
    store.find(range(PORTIONS), CAPTIONS, chunker)
    assert len(chunker.asked) == len(set(chunker.asked)) and store.held() == set(range(PORTIONS))
    before = list(chunker.asked)
    store.find(range(PORTIONS), CAPTIONS, chunker)
    assert chunker.asked == before


def test_a_caption_of_another_corpus_is_not_found_in_silence(tmp_path: Path) -> None:
    kept = KeptChunks(_filled(tmp_path).files, name="builtin")
    with pytest.raises(ValueError, match=r"caption 'a new hat' is not among those .* remove that folder and start again"):
        list(kept.words(["a new hat"]))


def test_a_damaged_portion_is_found_again_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = _filled(tmp_path)
    whole = store.file(3).read_bytes()
    store.file(3).write_bytes(whole[:-5])
    store.file(5).write_bytes(b"")
    assert store.held() == {0, 1, 2, 4}
    assert "portion-00003-of-00006.safetensors cannot be read" in caplog.text
    assert caplog.text.count("it is removed and found again") == 2
    store.find([3, 5], CAPTIONS, BuiltinChunker())
    assert store.held() == set(range(PORTIONS)) and store.file(3).read_bytes() == whole


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    store = _filled(tmp_path)
    old, new = tmp_path / ".portion-00001-of-00006.safetensors.1", tmp_path / ".portion-00001-of-00006.safetensors.2"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    store.held()
    assert not old.exists() and new.exists(), "somebody may be writing the new one"


def _find_slowly(folder: str) -> None:
    ChunkStore(Path(folder), portions=PORTIONS).find(range(PORTIONS), CAPTIONS, Counting(slow_s=0.02))


def test_a_kill_loses_what_was_begun_only(tmp_path: Path) -> None:
    """Two at once, as two runs of one corpus: one is killed, the other stopped; the third finds the rest."""
    processes = [subprocess.Popen([sys.executable, __file__, str(tmp_path)]) for _ in range(2)]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("portion-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait()
    store = ChunkStore(tmp_path, portions=PORTIONS)
    held = store.held()
    assert 2 <= len(held) < PORTIONS
    kept = {file: file.stat().st_mtime_ns for file in map(store.file, held)}
    chunker = Counting()
    store.find(range(PORTIONS), CAPTIONS, chunker)
    assert len(chunker.asked) < len(CAPTIONS)
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    assert list(KeptChunks(store.files, name="counting 1").words(CAPTIONS)) == list(BuiltinChunker().words(CAPTIONS))


if __name__ == "__main__":
    _find_slowly(sys.argv[1])
