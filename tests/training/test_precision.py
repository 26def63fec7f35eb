from __future__ import annotations

import logging
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from tbps.config.loop import Loop
from tbps.training import precision
from tbps.training.distributed import start_processes
from tbps.training.precision import choose_gemm


@pytest.fixture(autouse=True)
def default_precision() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


def test_the_choice_is_set_and_full_float32(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        chosen = choose_gemm(None)
    assert torch.get_float32_matmul_precision() == chosen
    assert "float32 products on the CPU: oneDNN is " in caplog.text
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(64, 256, generator=generator), torch.randn(256, 64, generator=generator)
    exact = a.double() @ b.double()
    assert float((a @ b - exact).abs().max() / exact.abs().max()) < 1e-6


def test_a_run_keeps_its_choice() -> None:
    assert choose_gemm("highest") == "highest"
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_environment_spares_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "LARGEST_ERROR", 1.0)  # on any processor
    monkeypatch.setattr(precision, "_gain", lambda a, b: 9.0)  # a busy machine, on which oneDNN seems faster
    assert choose_gemm(None) == "medium"
    monkeypatch.setenv("TBPS_CPU_PRODUCTS", "default")
    assert choose_gemm(None) == "highest"
    assert choose_gemm("medium") == "medium"  # a run that has begun keeps its bits
    monkeypatch.setenv("TBPS_CPU_PRODUCTS", "mkl")
    with pytest.raises(ValueError, match="TBPS_CPU_PRODUCTS is 'mkl', expected 'default', or leave it unset"):
        choose_gemm(None)


def test_lucky_moments_do_not_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """One product in ten, of either library, seems ten times as fast as it is."""
    now, luck = [0.0], random.Random(0)

    def clock() -> float:
        """Seen before and after each product."""
        now[0] += 0.001 if luck.random() < 0.1 else 0.01
        return now[0]

    monkeypatch.setattr(precision.time, "process_time", clock)
    gains = [precision._gain(torch.ones(2, 2), torch.ones(2, 2)) for _ in range(20)]
    assert max(gains) < precision._LEAST_GAIN


def test_a_stored_choice_that_is_inexact_here_is_left_with_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "LARGEST_ERROR", 0.0)  # as on a processor whose oneDNN rounds to bfloat16
    assert choose_gemm("medium") == "highest"
    assert "with oneDNN so far, which is not exact here" in caplog.text
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_gpu_computes_float32_convolutions_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default
    start_processes(Loop())
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


_SHAPES = """
import ctypes, torch
from tbps.config.loop import Loop
from tbps.training.distributed import start_processes

class Heap(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

library = ctypes.CDLL("libc.so.6")
library.mallinfo2.restype = Heap

def held_after(lengths):
    for length in lengths:
        torch.nn.functional.gelu(torch.randn(length, 64))
    return library.mallinfo2().uordblks

start_processes(Loop())
before = held_after(range(200, 500))
print(held_after(range(500, 1100)) - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc how much is in use")
def test_memory_does_not_grow_with_the_shapes_that_a_process_meets() -> None:
    """600 more of them: oneDNN would keep some kilobytes of each."""
    asked = {name: value for name, value in os.environ.items() if name != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    done = subprocess.run([sys.executable, "-c", _SHAPES], env=asked, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2**20
