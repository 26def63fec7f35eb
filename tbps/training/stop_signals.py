"""Ctrl-C, SIGTERM and SIGUSR2 ask training to stop at the next step boundary, with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPT_EXIT = 128 + signal.SIGINT
"""130: stopped by Ctrl-C."""
TERMINATE_EXIT = 128 + signal.SIGTERM
"""143: stopped by SIGTERM, or by SIGUSR2, with which job managers announce a time limit or preemption."""
LOST_EXIT = 75
"""Another process was lost or hangs: try again (EX_TEMPFAIL)."""

_EXITS = {signal.SIGINT: INTERRUPT_EXIT, signal.SIGTERM: TERMINATE_EXIT, signal.SIGUSR2: TERMINATE_EXIT}


class StoppedBySignal(SystemExit):
    """Training stopped as asked; `code` is the exit status, 130 or 143."""


class StopSignals:
    """While entered, the three signals set `requested` instead of killing. Enter it in the main thread."""

    def __init__(self) -> None:
        self.requested = 0
        """Exit status that was asked for; 0 = nobody asked."""
        self._at_once = False

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._handle) for number in _EXITS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A signal in this block raises StoppedBySignal: for long work that is done again from the start anyway."""
        self._at_once = True
        try:
            if self.requested:
                raise StoppedBySignal(self.requested)
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        # A launcher may pass on a Ctrl-C that the terminal already sent: the second one must not kill the save.
        self.requested = max(self.requested, _EXITS[signal.Signals(number)])
        if self._at_once:
            raise StoppedBySignal(self.requested)
