"""What loader workers bring, in order; one sentence where a pair, a worker or /dev/shm fails, or where nothing comes."""

from __future__ import annotations

import errno
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from tbps.data.worker_processes import WorkerContext, WorkerLost, no_room, stops_wait

logger = logging.getLogger(__name__)

PREFETCH_BATCHES = 4
"""Micro-batches that each worker prepares ahead."""
PATIENCE_S = 600.0
"""Seconds to wait for a batch where nothing else is asked for."""
POLL_S = 5.0
FIRST_WORD_S, NEXT_WORD_S = 30.0, 60.0
"""Seconds of waiting after which it is said, first and again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    """A message that travels from a worker to the training process in place of a batch."""

    message: str


class _Guarded(Dataset[object]):
    """Turns a ValueError of `dataset` into a value: DataLoader would wrap its one sentence into a page of traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: object) -> object:
        try:
            return self.dataset[index]
        except ValueError as error:
            return _Failure(message=str(error))


def load(dataset: Dataset, sampler: object, *, workers: int, patience_s: float = PATIENCE_S) -> Iterator:
    """What `dataset` holds at each index of `sampler`, in order, loaded by `workers` processes (0 = by this one).

    ValueError: an index cannot be loaded, or /dev/shm is full. WorkerLost: a worker died, or none brought the next batch
    for `patience_s` seconds.
    """
    context = WorkerContext()
    batches: Iterator | None = None
    try:
        with stops_wait(), _no_raise_at_a_workers_end():
            batches = _start(dataset, sampler, workers, context)
        for loaded in _patiently(batches, patience_s):
            if isinstance(loaded, _Failure):
                raise ValueError(loaded.message)
            yield loaded
    except (RuntimeError, OSError, EOFError) as error:
        if workers and (getattr(error, "errno", None) == errno.ENOSPC or context.has_no_room()):
            raise no_room() from error
        if not (lost := context.lost()):
            raise
        raise WorkerLost(
            f"a batch is lost: {lost}; the same command goes on from the last checkpoint; if this comes again, the node has"
            " too little memory: ask for more, or set --data.workers lower"
        ) from error
    finally:
        with stops_wait():
            # DataLoader does it when nobody holds the iterator any more, but the traceback of an error may hold it for long.
            if workers and batches is not None:
                batches._shutdown_workers()  # type: ignore[attr-defined]
            del batches, context


def _start(dataset: Dataset, sampler: object, workers: int, context: WorkerContext) -> Iterator:
    loader = DataLoader(
        _Guarded(dataset),
        sampler=sampler,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context if workers else None,
        prefetch_factor=PREFETCH_BATCHES if workers else None,
        collate_fn=_unchanged,
        pin_memory=torch.cuda.is_available(),
        timeout=POLL_S if workers else 0,
        # DataLoader draws a seed when it starts; from the global generator, that would change dropout after a restart.
        generator=torch.Generator(),
    )
    return iter(loader)


def _patiently(batches: Iterator, patience_s: float) -> Iterator:
    """The batches; while none comes, say so, and end after `patience_s`."""
    began, next_word_s = time.monotonic(), FIRST_WORD_S
    while True:
        try:
            with stops_wait():
                loaded = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader timed out" not in str(error):
                raise
            waited_s = time.monotonic() - began
            if waited_s > patience_s:
                raise WorkerLost(
                    f"no batch came for {waited_s:.0f} s: a disk or server does not answer, or loading is too slow; the same"
                    " command goes on from the last checkpoint (--loop.timeout-s sets the patience)"
                ) from error
            if waited_s > next_word_s:
                logger.warning("waiting for a batch for %.0f s: a disk or server does not answer, or is slow", waited_s)
                next_word_s += NEXT_WORD_S
            continue
        yield loaded
        began, next_word_s = time.monotonic(), FIRST_WORD_S


@contextmanager
def _no_raise_at_a_workers_end() -> Iterator[None]:
    """Take back DataLoader's handler, which raises wherever training is just then, in a save too: who waits finds out."""
    if threading.current_thread() is not threading.main_thread():
        yield  # it sets none here
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _unchanged(loaded: object) -> object:
    return loaded
