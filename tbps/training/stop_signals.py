"""Ctrl-C, SIGTERM and SIGUSR2 ask training to stop at the next step boundary, with a checkpoint."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tbps.data.worker_processes import STOP_SIGNALS, put_off

logger = logging.getLogger(__name__)

INTERRUPT_EXIT = 128 + signal.SIGINT
"""130: stopped by Ctrl-C."""
TERMINATE_EXIT = 128 + signal.SIGTERM
"""143: stopped by SIGTERM, or by SIGUSR2, with which job managers announce a time limit or preemption."""
LOST_EXIT = 75
"""Another process was lost or hangs: try again (EX_TEMPFAIL)."""


class StoppedBySignal(SystemExit):
    """Training stopped as asked; `code` is the exit status, 130 or 143."""


class StopSignals:
    """While entered, the three signals set `requested` instead of killing. Enter it in the main thread.

    What fails after a stop was asked for becomes StoppedBySignal, with the error in the log: whoever asked will start the
    run again, and an error that does not come of the stop comes again then. One may be entered inside another: both know
    what was asked for.
    """

    def __init__(self) -> None:
        self.requested = 0
        """Exit status that was asked for; 0 = nobody asked."""
        self._at_once = False
        self._around: StopSignals | None = None

    def __enter__(self) -> StopSignals:
        around = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        self._around = around if isinstance(around, StopSignals) else None
        self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        if self._around is not None:
            self.requested = max(self.requested, self._around.requested)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.requested and isinstance(error, Exception):  # StoppedBySignal is none
            users = isinstance(error, (ValueError, OSError))
            logger.error("failed after a stop was asked for: %s", error, exc_info=None if users else error)
            raise StoppedBySignal(self.requested) from error

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A signal in this block raises StoppedBySignal: for long work that is done again from the start anyway.

        Not in the midst of handing work to other processes, see `stops_wait`.
        """
        self._at_once = True
        try:
            if self.requested:
                raise StoppedBySignal(self.requested)
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._request(INTERRUPT_EXIT if number == signal.SIGINT else TERMINATE_EXIT)
        if self._at_once and not put_off(number):
            raise StoppedBySignal(self.requested)

    def _request(self, exit_status: int) -> None:
        # A launcher may pass on a Ctrl-C that the terminal already sent: the second one must not kill the save.
        self.requested = max(self.requested, exit_status)
        if self._around is not None:
            self._around._request(exit_status)
