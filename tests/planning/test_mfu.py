"""The work that a pair needs, counted beside training, and the cards whose arithmetic it is compared with."""

from __future__ import annotations

import logging
import time

import pytest
from small_runs import PAIRS, run_of

from tbps.planning.gpus import GPUS, gpu_named
from tbps.planning.mfu import Mfu, mfu_of
from tbps.planning.rehearsal import rehearse


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
    ],
)
def test_a_card_is_known_by_its_whole_name(driver: str, name: str | None) -> None:
    assert gpu_named(driver) is (GPUS[name] if name else None)


def waited_for(mfu: Mfu, pairs_per_s: float) -> float | None:
    """What it says once its process has ended."""
    deadline = time.monotonic() + 300
    while mfu.counts():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return mfu(pairs_per_s)


def test_the_share_is_of_the_work_that_is_needed(caplog: pytest.LogCaptureFixture) -> None:
    """And of the run's own micro-batch on one of two processes, whatever checkpointing computes again."""
    run = run_of("clip", "--loop.activation-checkpointing", "True")
    needed = rehearse(run_of("clip"), pairs=PAIRS // 2, processes=2).flops_per_pair
    with caplog.at_level(logging.INFO):
        mfu = Mfu(run, processes=2, peak_tflops=0.5)
        assert mfu(100.0) is None, "it is not known before it is counted"
        assert waited_for(mfu, 100.0) == pytest.approx(100 * needed / 0.5e12)
    assert f"a pair needs {needed / 1e9:.4g} GFLOP; MFU is of 0.5 TFLOP/s a GPU" in caplog.text


def test_why_it_is_not_known_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert waited_for(Mfu(run_of("clip"), processes=3, peak_tflops=1.0), 1.0) is None
    assert "MFU is not told: the work of a pair could not be counted (pairs is 10, expected a multiple of" in caplog.text


def test_nothing_is_counted_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert mfu_of(run_of("clip"), rank=0, processes=1) is None
