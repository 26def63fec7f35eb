"""Waiting for the work of other processes, however long it takes, but not for one that gets nowhere.

A collective ends at its timeout even while the process it waits for is hard at work. Here the others look into the store of
the process group: who works says there, every few seconds, that its main thread was on a processor. So work of hours is
waited for, in words; a thread that hangs is given up after the timeout of the process group; and a stop of everybody (a
suspended job) counts as one second.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store, _get_default_store

logger = logging.getLogger(__name__)

_LONGEST_SLEEP_S = 0.2
_LONGEST_BEAT_S = 5.0
_WORD_AFTER_S = 60.0


@contextmanager
def shown_work(doing: str) -> Iterator[None]:
    """While entered, the others can `wait_for_work` of this process; entered by all who work, in the same order everywhere.

    doing: what is done, after "while", as "finding attribute chunks".
    """
    store = _get_default_store()  # two threads may use it: its calls lock each other out, and none here waits
    key = _next_key(store, dist.get_rank())
    signs = _Signs(store, key, f"{platform.node()}\0{doing}")
    signs.start()
    try:
        yield
    finally:
        signs.end.set()
        signs.join()
        store.set(f"{key}/done", "")


def wait_for_work(rank: int) -> None:
    """Return when process `rank` leaves its `shown_work`. DistStoreError: it got nowhere for as long as a collective waits.

    Whoever waits for several must do so in the order in which they entered.
    """
    store = _get_default_store()
    key = _next_key(store, rank, asked_by=dist.get_rank())
    patience_s = _patience_s(store)
    began = before = time.monotonic()
    silent_s, sign, word_s, sleep_s = 0.0, b"", _WORD_AFTER_S, 0.001
    while not store.check([f"{key}/done"]):
        time.sleep(sleep_s)
        sleep_s = min(2 * sleep_s, _LONGEST_SLEEP_S)
        now = time.monotonic()
        silent_s += min(now - before, 1.0)
        before = now
        if store.check([f"{key}/sign"]) and (found := store.get(f"{key}/sign")) != sign:
            sign, silent_s = found, 0.0
        host, doing = _in_words(sign)
        if silent_s > patience_s:
            raise dist.DistStoreError(f"rank {rank} ({host}) got nowhere for {patience_s:g} s while {doing}")
        if now - began > word_s:
            logger.warning("waiting for rank %d (%s), which is %s, since %.0f s", rank, host, doing, now - began)
            word_s *= 2


def _next_key(store: Store, worker: int, *, asked_by: int | None = None) -> str:
    """Names one piece of work of `worker`: its number is counted by each process on its own, in the store."""
    who = "itself" if asked_by is None else str(asked_by)
    return f"work/{worker}/{store.add(f'work/{worker}/counted by {who}', 1)}"


def _patience_s(store: Store) -> float:
    """Seconds that collectives wait: stores are made with the timeout of their process group."""
    return float(store.timeout.total_seconds())  # type: ignore[attr-defined]


def _in_words(sign: bytes) -> tuple[str, str]:
    """Host, and what is done there."""
    if not sign:
        return "nothing heard of it yet", "its work was waited for"
    host, doing, _ = sign.decode().split("\0")
    return host, doing


class _Signs(threading.Thread):
    """Changes a key of the store while the thread that made this gets processor time."""

    def __init__(self, store: Store, key: str, text: str) -> None:
        super().__init__(name="signs of work", daemon=True)
        self.end = threading.Event()
        self._store, self._key, self._text = store, key, text
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._beat_s = min(_LONGEST_BEAT_S, _patience_s(store) / 4)

    def run(self) -> None:
        """Until the end."""
        number, used_s = 0, -1.0
        while True:
            if (now_s := time.clock_gettime(self._clock)) != used_s:
                used_s, number = now_s, number + 1
                try:
                    self._store.set(f"{self._key}/sign", f"{self._text}\0{number}")
                except dist.DistError:  # the store's process is gone, which the next use of it by the main thread will say
                    return
            if self.end.wait(self._beat_s):
                return
