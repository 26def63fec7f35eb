from __future__ import annotations

import json
import multiprocessing
import resource
from pathlib import Path

import pytest

from tbps.runs.metrics_log import MetricsLog


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_log_goes_back_to_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, step=0)
    log.write([{"step": 1}, {"step": 2}, {"step": 2, "split": "val"}, {"step": 3}, {"step": 4}])
    log.write([{"step": 4, "split": "val"}, {"step": 4, "split": "test"}, {"step": 5}])
    log.sync()
    log.close()
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # the process was killed while it wrote
    log = MetricsLog(path, step=4)
    assert _lines(path) == [{"step": 1}, {"step": 2}, {"step": 2, "split": "val"}, {"step": 3}, {"step": 4}]
    log.write([{"step": 4, "split": "val"}])
    log.close()
    assert _lines(path)[-1] == {"step": 4, "split": "val"}


def test_a_cut_line_of_a_kept_step_goes_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')  # whole JSON, but its newline is missing
    MetricsLog(path, step=2).close()
    assert _lines(path) == [{"step": 1}]


@pytest.mark.parametrize("damage", ["3", "[]", "null", '{"steps": 1}', '{"step": "x"}', '{"step": null}', "\0\0\0"])
def test_a_damaged_line_goes_too(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{damage}\n{{"step": 2}}\n')
    MetricsLog(path, step=2).close()
    assert _lines(path) == [{"step": 1}, {"step": 2}]


def test_a_fresh_start_empties_the_log(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    MetricsLog(path, step=0).close()
    assert path.read_text() == ""


def _write_with_little_room(path: Path, answer: multiprocessing.queues.Queue[str]) -> None:
    log = MetricsLog(path, step=0)
    log.write([{"step": 1}])
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
    try:
        log.write([{"step": 2}, {"step": 3}])
    except OSError as error:
        answer.put(f"{error.strerror}: {path.read_text()}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.write([{"step": 2}, {"step": 3}])
    log.close()
    answer.put("done")


def test_lines_without_room_leave_nothing_behind(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=_write_with_little_room, args=(tmp_path / "metrics.jsonl", answer))
    process.start()
    assert answer.get(timeout=20) == 'File too large: {"step": 1}\n'
    assert answer.get(timeout=20) == "done"
    process.join()
    assert _lines(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}, {"step": 3}]
