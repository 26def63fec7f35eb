"""Processes of a run watch each other, so that one that dies or hangs ends the others at once, with its name.

Without this, a lost process leaves the others waiting in a collective until its timeout, and none can say for whom. Every
process keeps one connection to the first. The kernel closes it when a process dies, wherever it runs; one that hangs, or
whose machine is gone, falls silent. A stop of everybody (a suspended job) is no silence: who was stopped too forgives it.

Where only the main thread hangs, this thread lives on and says how far the other got. In the midst of a step, a main thread
that is behind all others, or level with them, and gets no processor time for as long, counts as hung. Work that is slow,
waiting for a batch, and all that happens between steps (saving, evaluation) are not judged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch.distributed as dist
from accelerate.utils import broadcast_object_list

from tbps.data.worker_processes import WorkerLost
from tbps.training.device_errors import verdict_of
from tbps.training.stop_signals import LOST_EXIT

logger = logging.getLogger(__name__)

_BEAT_S = 1.0
_JOIN_S = 120.0
_VERDICT_S = 5.0
_FAREWELL_S = 3.0
_NAMES_SHOWN = 4


class Peers:
    """While entered, ends this process with LOST_EXIT where another one is lost; does nothing in a run of one process.

    timeout_s: silence after which a process counts as hung; note: file that is left with the reason of such an end.
    """

    def __init__(self, *, timeout_s: float, note: Path) -> None:
        self.timeout_s, self.note = timeout_s, note
        self.pulse = Pulse()
        self._watch: _Watch | None = None

    def __enter__(self) -> Peers:
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self
        rank = dist.get_rank()
        listener = socket.create_server(("", 0), backlog=dist.get_world_size()) if rank == 0 else None
        port = listener.getsockname()[1] if listener is not None else 0
        port, token = broadcast_object_list([port, secrets.token_hex(8)])
        name = f"rank {rank} (process {os.getpid()} on {platform.node()})"
        if listener is not None:
            with listener:
                links = _accept(listener, token, name, count=dist.get_world_size() - 1)
        else:
            links = [_join(os.environ.get("MASTER_ADDR", "127.0.0.1"), port, token, name)]
        self._watch = _Watch(links, name=name, pulse=self.pulse, centre=rank == 0, timeout_s=self.timeout_s, note=self.note)
        _close_at_fork(weakref.WeakMethod(self._watch.close_in_child))
        self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        lost_worker, verdict = isinstance(error, WorkerLost), verdict_of(error) if error else None
        is_accident = lost_worker or (verdict is not None and verdict.status == LOST_EXIT)
        if is_accident:
            _leave_note(self.note, (verdict.sentence if verdict else str(error)).partition(";")[0])
        if self._watch is None:
            return
        if isinstance(error, RuntimeError):
            # The collective noticed first, but cannot say who is gone. In a moment the watch can, and ends this process.
            time.sleep(_VERDICT_S)
            self._watch.blame_stop()
        failure = "" if kind is None or issubclass(kind, SystemExit) else f"{kind.__name__}: {error}"
        self._watch.leave(failure, status=LOST_EXIT if is_accident else 1)


class Pulse:
    """Where the main thread is, which tells it here. Made in that thread."""

    def __init__(self) -> None:
        self.judged = False
        """Set after the first step: until then, libraries are loaded and kernels compiled by others."""
        self._place = (0, "")
        self._clock = time.pthread_getcpuclockid(threading.get_ident())

    def enter(self, place: str) -> None:
        """Begin another part of a step; place: its name after "in", empty for what is not judged."""
        self._place = (self._place[0] + 1, place if self.judged else "")

    def beat(self) -> str:
        """As it is sent: parts begun, processor time in ms, place."""
        parts, place = self._place
        return f"{parts} {round(1000 * time.clock_gettime(self._clock))} {place}"


class _Progress:
    """What was last heard of a main thread."""

    def __init__(self) -> None:
        self.parts, self.place = 0, ""
        self.since = time.monotonic()
        self._sign = ""

    def hear(self, beat: str, now: float) -> None:
        """Take the text of `Pulse.beat`."""
        if beat != self._sign:
            self._sign, self.since = beat, now
            parts, _, self.place = beat.split(" ", 2)
            self.parts = int(parts)


class _Link:
    """A connection to another process."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self.connection, self.name = connection, name
        self.heard = time.monotonic()
        self.progress = _Progress()
        self._rest = b""

    def send(self, line: str) -> None:
        """A dead connection is noticed when it is read."""
        try:
            self.connection.sendall(f"{line}\n".encode())
        except OSError:
            logger.debug("%s does not take %r", self.name, line)

    def close(self) -> None:
        """Part so that no line is lost: an end with unread bytes on this side would take back what was just sent."""
        try:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_FAREWELL_S)
            while self.connection.recv(65_536):
                pass
        except OSError:
            logger.debug("%s has closed first", self.name)
        self.connection.close()

    def lines(self) -> list[str] | None:
        """What has come; None where the other side has closed."""
        try:
            received = self.connection.recv(65_536)
        except OSError:
            received = b""
        if not received:
            return None
        self.heard = time.monotonic()
        *whole, self._rest = (self._rest + received).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


class _Watch(threading.Thread):
    """Beats on every link, listens on all, and acts on what it finds. The centre tells the others."""

    def __init__(self, links: list[_Link], *, name: str, pulse: Pulse, centre: bool, timeout_s: float, note: Path) -> None:
        super().__init__(name="peers", daemon=True)
        self._links, self._centre, self._timeout_s, self._note = links, centre, timeout_s, note
        self._own_name, self._pulse, self._own = name, pulse, _Progress()
        self._left = threading.Event()
        self._stopped_s = 0.0

    def blame_stop(self) -> None:
        """End this process, to go on from the checkpoint, where it was stopped for longer than collectives wait."""
        if self._stopped_s > self._timeout_s:
            self._end(f"everybody was stopped for {self._stopped_s:.0f} s, longer than a collective waits")

    def close_in_child(self) -> None:
        """A forked process must not hold the connections open: the others would not notice the end of this one."""
        for link in self._links:
            link.connection.close()

    def leave(self, failure: str, *, status: int) -> None:
        """Say why this process stops watching: it is done, or it failed and the others end with `status`."""
        self._left.set()
        self.join(2 * _BEAT_S)
        for link in self._links:
            link.send(f"failed {status} {' '.join(failure.split())[:2000]}" if failure else "bye")
        for link in self._links:
            link.close()

    def run(self) -> None:
        """Until left, or until somebody is lost."""
        before = time.monotonic()
        while not self._left.is_set():
            readable, _, _ = select.select([link.connection for link in self._links], [], [], _BEAT_S)
            now = time.monotonic()
            self._stopped_s = max(self._stopped_s, now - before)
            beat = self._pulse.beat()
            self._own.hear(beat, now)
            was_stopped = now - before > 3 * _BEAT_S
            for link in list(self._links):
                if was_stopped:  # others may have been, too
                    link.heard = link.progress.since = self._own.since = now
                if link.connection in readable:
                    self._read(link)
                elif now - link.heard > self._timeout_s:
                    self._end(
                        f"{link.name} has not been heard of for {self._timeout_s:g} s: it hangs, or its machine is gone"
                    )
                link.send(f". {beat}")
            if self._centre:
                self._judge(now)
            before = now
            time.sleep(_BEAT_S / 4)  # beats of the others would wake this thread at once

    def _judge(self, now: float) -> None:
        """End all where the main threads that are behind get nowhere."""
        everyone = [(self._own_name, self._own), *((link.name, link.progress) for link in self._links)]
        least = min(progress.parts for _, progress in everyone)
        behind = [(name, progress) for name, progress in everyone if progress.parts == least]
        if all(progress.place and now - progress.since > self._timeout_s for _, progress in behind):
            names = ", ".join(name for name, _ in behind[:_NAMES_SHOWN]) + (", ..." if len(behind) > _NAMES_SHOWN else "")
            who = "it hangs" if len(behind) == 1 else "one of them hangs"
            self._end(f"{names} got nowhere for {self._timeout_s:g} s in {behind[0][1].place}: {who}")

    def _read(self, link: _Link) -> None:
        lines = link.lines()
        if lines is None:
            self._end(f"{link.name} was lost: it ended without a word")
            return
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == ".":
                link.progress.hear(rest, link.heard)
            elif word == "name":
                link.name = rest
            elif word == "bye":
                self._links.remove(link)
                link.close()
            elif word in ("failed", "end"):
                status, _, sentence = rest.partition(" ")
                self._end(sentence if word == "end" else f"{link.name} failed with {sentence}", status=int(status))

    def _end(self, sentence: str, *, status: int = LOST_EXIT) -> None:
        if self._left.is_set():
            return
        if self._centre:
            for link in self._links:
                link.send(f"end {status} {sentence}")
        logger.error("%s; this process ends too, the same command goes on from the last checkpoint", sentence)
        _leave_note(self._note, sentence)
        logging.shutdown()
        os._exit(status)


def _close_at_fork(close: weakref.WeakMethod[Callable[[], None]]) -> None:
    """What is registered stays so until the process ends, and must keep no watch alive."""

    def close_if_there() -> None:
        if method := close():
            method()

    os.register_at_fork(after_in_child=close_if_there)


def _leave_note(note: Path, sentence: str) -> None:
    with contextlib.suppress(OSError):  # it is in the log anyway
        note.write_text(sentence, encoding="utf-8")


def _accept(listener: socket.socket, token: str, own_name: str, *, count: int) -> list[_Link]:
    links: list[_Link] = []
    listener.settimeout(_JOIN_S)
    while len(links) < count:
        connection, _ = listener.accept()
        connection.settimeout(_JOIN_S)
        found, _, name = _first_line(connection).partition(" ")
        if found == token:
            links.append(_Link(connection, name))
            links[-1].send(f"name {own_name}")
    return links


def _first_line(connection: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\n") and (received := connection.recv(1)):
        line += received
    return line.decode(errors="replace").rstrip("\n")


def _join(address: str, port: int, token: str, name: str) -> _Link:
    connection = socket.create_connection((address, port), timeout=_JOIN_S)
    connection.sendall(f"{token} {name}\n".encode())
    return _Link(connection, f"rank 0 (on {address})")
