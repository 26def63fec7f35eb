from __future__ import annotations

import logging
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
