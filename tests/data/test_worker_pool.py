"""The commands with worker processes, stopped and killed in the midst of their work: real processes and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_folder import jpeg_bytes, write_folder

from tbps.data.shard_writer import write_shards
from tbps.data.worker_pool import worker_pool

PADDING = 1_100_000
"""Behind each image, so that every shard of 1 MB holds one."""
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}


def _start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tbps.command", "data", *words, "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _children(process: subprocess.Popen[str]) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except OSError:
        return []


def _wait(condition: Callable[[], bool], *, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def _interrupt(process: subprocess.Popen[str], number: signal.Signals, *, at_work: Callable[[], bool]) -> str:
    """Signal the command when it is at work; none of its workers lives on. Ctrl-C reaches all of them. Returns stderr."""
    _wait(lambda: at_work() or process.poll() is not None, what="the command does not begin")
    children = _children(process)
    assert len(children) >= 2 and process.poll() is None, process.communicate()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == STATUS[number], said
    _wait(lambda: not any(Path(f"/proc/{child}").exists() for child in children), what="a worker lives on", seconds=5)
    assert number == signal.SIGKILL or "tbps: stopped as asked" in said
    assert "Traceback" not in said
    return said


@pytest.mark.slow
def test_sharding_goes_on_after_a_stop_and_writes_no_finished_shard_again(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "cuhk-pedes", num_identities=15)
    for number, file in enumerate(sorted((tmp_path / "folder" / "imgs").rglob("*.jpg"))):
        file.write_bytes(file.read_bytes() + bytes([number]) * PADDING)
    partial, out = tmp_path / ".out.partial", tmp_path / "out"
    words = ["shard", str(tmp_path / "folder"), str(out), "--benchmark", "cuhk-pedes", "--shard-mb", "1"]
    written: dict[str, int] = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        process = _start(*words)
        more = len(written) + 3
        said = _interrupt(process, number, at_work=lambda: len(list(partial.glob("*.members.json"))) >= more)  # noqa: B023
        found = {
            file.stem: (partial / f"{file.stem.partition('.')[0]}.tar").stat().st_mtime_ns for file in _members(partial)
        }
        assert written.items() <= found.items() and len(found) >= more
        assert f"shards are kept in {partial}: the same command goes on from there" in said
        written = found
        assert not out.exists()
    process = _start(*words)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and f"{len(written)} of 30 shards are there already" in said
    assert not partial.exists()
    for name, changed_ns in written.items():
        assert (out / f"{name.partition('.')[0]}.tar").stat().st_mtime_ns == changed_ns
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "undisturbed", shard_mb=1)
    for file in (tmp_path / "undisturbed").iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name
    assert len(list(out.iterdir())) == len(list((tmp_path / "undisturbed").iterdir()))


def _members(partial: Path) -> list[Path]:
    return list(partial.glob("*.members.json"))


@pytest.mark.slow
def test_decoding_leaves_no_worker(tmp_path: Path) -> None:
    write_folder(tmp_path, "cuhk-pedes", num_identities=100)
    large = jpeg_bytes(0, height=3000, width=1000)
    for file in (tmp_path / "imgs").rglob("*.jpg"):
        file.write_bytes(large)
    process = _start("doctor", str(tmp_path), "--benchmark", "cuhk-pedes", "--decode")
    _interrupt(process, signal.SIGTERM, at_work=lambda: len(_children(process)) >= 2)


@pytest.mark.slow
def test_a_synthetic_world_is_made_anew_after_a_stop(tmp_path: Path) -> None:
    words = ["synth", str(tmp_path / "world"), "--benchmark", "cuhk-pedes", "--image-px", "48", "16"]
    process = _start(*words, "--identities", "4000")
    _interrupt(process, signal.SIGKILL, at_work=lambda: any((tmp_path / "world").glob("*.partial")))
    assert list((tmp_path / "world").glob("*.partial")), "killed while it wrote"
    process = _start(*words, "--identities", "24")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert not list((tmp_path / "world").glob("*.partial"))
    assert len(list((tmp_path / "world").rglob("imgs/**/*.jpg"))) < 100


def test_shards_of_other_images_or_of_a_plan_before_are_not_taken(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "cuhk-pedes")
    files = sorted((tmp_path / "folder" / "imgs").rglob("*.jpg"))
    for number, file in enumerate(files):
        file.write_bytes(file.read_bytes() + bytes([number]) * PADDING)
    last = files[-1].read_bytes()
    files[-1].unlink()
    files[-1].mkdir()  # found, but not readable
    with pytest.raises((ValueError, OSError)):
        write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "shards", shard_mb=1)
    files[-1].rmdir()
    files[-1].write_bytes(last)
    files[0].write_bytes(files[0].read_bytes() + b"changed")
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "shards", shard_mb=1)
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "undisturbed", shard_mb=1)
    for file in (tmp_path / "undisturbed").iterdir():
        assert (tmp_path / "shards" / file.name).read_bytes() == file.read_bytes(), file.name
    assert not list(tmp_path.glob(".*partial*"))


def _die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_told_in_a_sentence() -> None:
    told = "a worker process ended without a word, as one does that is killed for want of memory"
    with pytest.raises(ValueError, match=told), worker_pool(2) as pool:
        list(pool.map(_die, range(4)))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_nothing_of_a_pool_runs_on_after_a_stop_and_its_thread_ends_well() -> None:
    """Its thread would close a pipe that the end of the interpreter writes to, or tell a future that was cancelled."""
    before = set(threading.enumerate())
    for _ in range(20):
        with pytest.raises(KeyboardInterrupt), worker_pool(2) as pool:
            waiting = pool.map(time.sleep, [0.0] + [30.0] * 4000)
            next(waiting)
            waiting.close()  # as an error in the loop over it would
            raise KeyboardInterrupt
    assert set(threading.enumerate()) <= before
