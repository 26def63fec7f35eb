from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def _processors(folder: Path, vendor: str, family: str) -> Path:
    """Written as Linux writes it: a block for each processor."""
    block = f"processor\t: {{}}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel name\t: AMD EPYC\n\n"
    (folder / "cpuinfo").write_text("".join(block.format(i) for i in range(2)))
    return folder / "cpuinfo"


@pytest.mark.parametrize(("family", "chosen"), [("25", "highest"), ("26", "medium")], ids=["AMD Zen 4", "AMD Zen 5"])
def test_the_processor_chooses_and_no_stopwatch(
    family: str, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "LARGEST_ERROR", 1.0)  # on any processor
    monkeypatch.setattr(precision, "_PROCESSORS", _processors(tmp_path, "AuthenticAMD", family))
    assert {choose_gemm(None) for _ in range(5)} == {chosen}
    assert torch.get_float32_matmul_precision() == chosen


def test_a_machine_that_does_not_name_its_processor_takes_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_PROCESSORS", tmp_path / "absent")
    assert choose_gemm(None) == "highest"


@pytest.mark.parametrize("asked", ["", "onednn"])
def test_the_choice_is_full_float32(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPS_CPU_PRODUCTS", asked)
    chosen = choose_gemm(None)
    assert torch.get_float32_matmul_precision() == chosen
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(64, 256, generator=generator), torch.randn(256, 64, generator=generator)
    exact = a.double() @ b.double()
    assert float((a @ b - exact).abs().max() / exact.abs().max()) < 1e-6


def test_a_run_keeps_its_choice_and_the_environment_chooses_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "LARGEST_ERROR", 1.0)
    for asked, chosen in (("onednn", "medium"), ("default", "highest")):
        monkeypatch.setenv("TBPS_CPU_PRODUCTS", asked)
        assert choose_gemm(None) == chosen
        assert [choose_gemm(stored) for stored in ("medium", "highest")] == ["medium", "highest"]
    monkeypatch.setenv("TBPS_CPU_PRODUCTS", "mkl")
    with pytest.raises(ValueError, match="TBPS_CPU_PRODUCTS is 'mkl', expected 'default' or 'onednn', or leave it unset"):
        choose_gemm(None)


@pytest.mark.parametrize(("stored", "said"), [("medium", "from now on, and bits will differ"), (None, "library multiplies")])
def test_a_library_that_is_inexact_here_is_left_with_a_word(
    stored: str | None, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "LARGEST_ERROR", 0.0)  # as on a processor whose oneDNN rounds to bfloat16
    monkeypatch.setenv("TBPS_CPU_PRODUCTS", "onednn")
    assert choose_gemm(stored) == "highest"
    assert "oneDNN is not exact on this processor" in caplog.text and said in caplog.text
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
