from __future__ import annotations

import os
import signal

import pytest

from tbps.training.stop_signals import StoppedBySignal, StopSignals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR2, 143)])
def test_a_signal_sets_a_flag_and_its_exit_status(number: signal.Signals, status: int) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.requested == 0
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert signals.requested == status
    assert signal.getsignal(number) == before


def test_a_signal_ends_an_evaluation_at_once() -> None:
    reached = []
    with StopSignals() as signals, pytest.raises(StoppedBySignal) as caught, signals.at_once():
        reached.append("before")
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("after")
    assert caught.value.code == 143 and reached == ["before"]


def test_a_signal_before_an_evaluation_ends_it_too() -> None:
    with StopSignals() as signals, pytest.raises(StoppedBySignal) as caught:
        os.kill(os.getpid(), signal.SIGINT)
        with signals.at_once():
            raise AssertionError("the evaluation began")
    assert caught.value.code == 130
