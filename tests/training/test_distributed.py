"""What two real processes are told of an exception of the first one."""

from __future__ import annotations

import binascii
import errno
import http.client
import io
import json
import multiprocessing
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import urllib.error
import zipfile
from collections.abc import Iterator
from email.message import Message
from multiprocessing.queues import Queue

import PIL.Image
import requests
from safetensors import SafetensorError
from torch.distributed import DistStoreError

from tbps.config.loop import Loop
from tbps.data.worker_processes import WorkerLost
from tbps.training.distributed import FailedOnMain, on_main, start_processes
from tbps.training.stop_signals import StoppedBySignal

WORDS, ERRNO = ("some words",), (errno.ENOENT, "No such file or directory", "a/file")
SPECIAL: dict[type[Exception], tuple[object, ...]] = {
    json.JSONDecodeError: ("Expecting value", "", 0),
    UnicodeDecodeError: ("utf-8", b"\xff", 0, 1, "invalid start byte"),
    UnicodeEncodeError: ("ascii", "\xff", 0, 1, "ordinal not in range"),
    UnicodeTranslateError: ("\xff", 0, 1, "no such letter"),
    urllib.error.HTTPError: ("http://host/a", 404, "Not Found", Message(), io.BytesIO()),
    urllib.error.URLError: (OSError(errno.ECONNREFUSED, "Connection refused"),),
    urllib.error.ContentTooShortError: ("cut off", b""),
    ssl.SSLError: (1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"),
    shutil.Error: ([("a", "b", "no room"), ("c", "d", "no room")],),
    http.client.RemoteDisconnected: ("closed without a word",),
}
COMMON = (binascii.Error, io.UnsupportedOperation, socket.gaierror, PIL.UnidentifiedImageError, requests.ConnectionError)
ACCIDENTS = (WorkerLost("worker process 7 was killed by SIGKILL; the same command goes on"), DistStoreError("got nowhere"))
OTHERS = (
    KeyError("a key"),
    RuntimeError("two\nlines"),
    MemoryError(),
    AssertionError(),
    SafetensorError("header too small"),
    tarfile.ReadError("no tar"),
    zipfile.BadZipFile("no zip"),
    subprocess.CalledProcessError(1, "git"),
    KeyboardInterrupt(),
)


def _kinds(base: type[Exception]) -> set[type[Exception]]:
    """All classes below `base` in the standard library, as far as it is imported."""
    return {base}.union(*(_kinds(kind) for kind in base.__subclasses__()))


def _user_errors() -> Iterator[Exception]:
    known = _kinds(ValueError) | _kinds(OSError)
    standard = {kind for kind in known if kind.__module__.partition(".")[0] in sys.stdlib_module_names}
    for kind in sorted(standard.union(COMMON) - {WorkerLost}, key=lambda kind: (kind.__module__, kind.__qualname__)):
        if kind in SPECIAL:
            yield kind(*SPECIAL[kind])
            continue
        yield kind(*WORDS)
        if issubclass(kind, OSError):
            yield kind(*ERRNO)


def _process(rank: int, port: int, answers: Queue[tuple[int, list[tuple[str, ...]]]]) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", **{name: str(value) for name, value in place.items()}})
    start_processes(Loop())
    found: list[tuple[str, ...]] = []
    for error in (*_user_errors(), StoppedBySignal(143), *ACCIDENTS, *OTHERS):

        def fail(error: BaseException = error) -> None:
            raise error

        try:
            on_main(fail)
        except BaseException as caught:
            group = next(
                (kind for kind in (WorkerLost, DistStoreError, OSError, ValueError, SystemExit) if isinstance(caught, kind)),
                type(caught),
            )
            places = [getattr(caught, name, None) for name in ("errno", "filename", "filename2")]
            found.append((type(error).__name__, group.__name__, str(caught), *map(str, places)))
    found.append(("-", "result", on_main(lambda: "of the first" if rank == 0 else "wrong")))
    answers.put((rank, found))


def test_every_exception_of_the_first_process_ends_the_call_on_all_with_its_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=_process, args=(rank, port, answers)) for rank in (0, 1)]
    for process in processes:
        process.start()
    try:
        of_rank = dict(answers.get(timeout=100) for _ in processes)
    finally:
        for process in processes:
            process.kill()
            process.join()
    kinds = {line[0] for line in of_rank[0]}
    assert {kind.__name__ for kind in (*SPECIAL, *COMMON)} <= kinds and len(kinds) > 50
    for first, second in zip(of_rank[0], of_rank[1], strict=True):
        if first[1] in ("ValueError", "OSError", "SystemExit", "WorkerLost", "DistStoreError", "result"):
            assert second[:3] == first[:3]
            assert second[3:] == first[3:] or "a/file" not in first[2] or first[1] == "WorkerLost"
        else:
            assert second[1] == FailedOnMain.__name__
            assert second[2] == f"the first process failed with {first[0]}: {first[2]}"
    missing = ("FileNotFoundError", "OSError", "[Errno 2] No such file or directory: 'a/file'", "2", "a/file", "None")
    assert missing in of_rank[1]
    assert of_rank[1][-1] == ("-", "result", "of the first")
