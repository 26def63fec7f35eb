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


@pytest.mark.parametrize("error", [ValueError("half a file"), RuntimeError("a worker was killed")])
def test_what_fails_after_a_stop_was_asked_for_is_a_stop(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StoppedBySignal) as caught, StopSignals():
        os.kill(os.getpid(), signal.SIGTERM)
        raise error
    assert caught.value.code == 143 and caught.value.__cause__ is error
    assert f"failed after a stop was asked for: {error}" in caplog.text


def test_what_fails_without_a_stop_is_a_failure() -> None:
    with pytest.raises(ValueError, match="half a file"), StopSignals():
        raise ValueError("half a file")


def test_one_inside_another_and_both_know() -> None:
    with StopSignals() as outer:
        with StopSignals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert (outer.requested, inner.requested) == (143, 143)
        with StopSignals() as later, pytest.raises(StoppedBySignal), later.at_once():
            raise AssertionError("long work began")
