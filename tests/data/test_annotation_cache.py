"""Annotations read once for all processes and starts: the same as read anew, followed when files change, mapped."""

from __future__ import annotations

import json
import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from test_shards import assert_same_pairs
from tiny_folder import MAIN_FILE, make_data, write_folder

from tbps.config.data import Benchmark
from tbps.data import annotation_cache
from tbps.data.annotation_cache import mapped_annotations
from tbps.data.annotations import read_annotations
from tbps.data.column import StringColumn, map_columns, write_columns
from tbps.data.opening import splits_of
from tbps.data.pairs import FolderPairs, open_pairs


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_cache, "SMALL_BYTES", 0)


def times_read(caplog: pytest.LogCaptureFixture) -> int:
    return caplog.text.count("reading the annotations at ")


@pytest.mark.parametrize("benchmark", ["cuhk-pedes", "icfg-pedes", "rstpreid", "mals", "coco"])
def test_the_same_pairs_from_the_cache(tmp_path: Path, benchmark: Benchmark, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write_folder(tmp_path / "data", benchmark)
    plain = read_annotations(tmp_path / "data", benchmark)
    data = make_data(tmp_path / "data", benchmark, cache=str(tmp_path / "cache/shards"))
    for _ in range(2):
        assert splits_of(data) == tuple(plain.splits)
        for name in plain.splits:
            assert_same_pairs(FolderPairs(tmp_path / "data", benchmark, plain.split(name)), open_pairs(data, name))
    assert times_read(caplog) == 1
    mapped = mapped_annotations(tmp_path / "data", benchmark, cache=tmp_path / "cache/annotations").split("train")
    expected = plain.split("train").attribute_IA
    assert (expected is None) == (mapped.attribute_IA is None) == (benchmark != "mals")
    assert expected is None or np.array_equal(expected, mapped.attribute_IA)
    with pytest.raises(ValueError, match="has no split 'dev': it has "):
        open_pairs(data, "dev")


def test_a_changed_or_damaged_file_is_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = write_folder(tmp_path / "data", "rstpreid")
    file, cache = tmp_path / "data" / MAIN_FILE["rstpreid"], tmp_path / "cache"

    def first() -> str:
        return mapped_annotations(tmp_path / "data", "rstpreid", cache=cache).split("train").caption[0]

    before = first()
    rows[0]["captions"][0] = before.replace("man", "men")  # of the same length
    file.write_text(json.dumps(rows))
    assert first() == before.replace("man", "men") and times_read(caplog) == 2
    for number, damage in enumerate((lambda full: full[:100], lambda full: full.replace(b"shoes", b"shoos"))):
        for table in cache.rglob("train.safetensors"):
            table.write_bytes(damage(table.read_bytes()))
        assert first() == before.replace("man", "men") and times_read(caplog) == 3 + number
    assert "is damaged (train.safetensors has changed): the annotations are read again" in caplog.text
    file.write_text("[")
    with pytest.raises(ValueError, match=r"data_captions.json is not valid JSON"):
        first()
    assert sorted(path.suffix for path in cache.iterdir()) == ["", "", ".lock", ".lock", ".lock"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path / "data", "cuhk-pedes")
    (tmp_path / "cache").write_text("a file")
    train = mapped_annotations(tmp_path / "data", "cuhk-pedes", cache=tmp_path / "cache").split("train")
    assert len(train.caption) == 20
    assert f"cannot be kept in {tmp_path}/cache (" in caplog.text and "see --data.cache" in caplog.text


def _open(root: Path, cache: Path, queue: multiprocessing.Queue) -> None:
    caption = mapped_annotations(root, "cuhk-pedes", cache=cache).split("train").caption
    with open("/proc/self/maps", encoding="utf-8") as maps:
        mapped = sum("train.safetensors" in line for line in maps)
    queue.put((len(caption), mapped > 0))


def test_many_processes_read_once_and_share(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "data", "cuhk-pedes")
    logging.getLogger("tbps").setLevel(logging.INFO)
    handler = logging.StreamHandler()
    logging.getLogger("tbps").addHandler(handler)
    try:
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        processes = [context.Process(target=_open, args=(tmp_path / "data", tmp_path / "cache", queue)) for _ in range(4)]
        for process in processes:
            process.start()
        assert [queue.get(timeout=60) for _ in processes] == [(20, True)] * 4
        for process in processes:
            process.join()
    finally:
        logging.getLogger("tbps").removeHandler(handler)
        logging.getLogger("tbps").setLevel(logging.NOTSET)
    assert capfd.readouterr().err.count("reading the annotations at ") == 1


def test_columns_are_written_and_mapped(tmp_path: Path) -> None:
    strings = ["", "red", "h\u00e4t", "\ud800 alone", "\U0001f600"]
    path = tmp_path / "columns"
    write_columns(path, {"text": StringColumn(strings), "number": np.arange(6, dtype=np.uint32).reshape(3, 2)})
    columns = map_columns(path)
    assert list(columns["text"]) == strings and set(columns) == {"number", "text"}
    assert columns["number"].tolist() == [[0, 1], [2, 3], [4, 5]] and columns["number"].dtype == np.uint32
    with pytest.raises(ValueError, match="its strings do not begin where they should"):
        StringColumn.of(np.array([0, 3, 2]), np.zeros(2, dtype=np.uint8))
    path.write_text("no")
    with pytest.raises(ValueError, match="columns is damaged or another file"):
        map_columns(path)
