from __future__ import annotations

import pytest
import torch

from tbps.nn.dropout import drop


def test_share_and_scale() -> None:
    torch.manual_seed(0)
    x = torch.full((400, 1001), 2.0, requires_grad=True)
    out = drop(x, 0.1)
    kept = out != 0
    assert kept.float().mean().item() == pytest.approx(0.9, abs=0.002)
    scale = 65536 / (65536 - round(0.1 * 65536))
    assert torch.equal(out[kept], torch.full_like(out[kept], 2 * scale))
    out.sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, kept * scale)


def test_entries_are_independent_along_rows_and_columns() -> None:
    torch.manual_seed(0)
    kept = (drop(torch.ones(1000, 1000), 0.5) != 0).float() - 0.5
    for step in (1, 2, 3, 4, 1000):  # four neighbours share one random word
        flat = kept.flatten()
        assert abs((flat[:-step] * flat[step:]).mean().item()) < 0.25 * 0.01


def test_generator_decides_and_nothing_happens_in_evaluation() -> None:
    x = torch.randn(7, 3)
    torch.manual_seed(3)
    first = drop(x, 0.3)
    assert not torch.equal(first, drop(x, 0.3))
    torch.manual_seed(3)
    assert torch.equal(first, drop(x, 0.3))
    assert drop(x, 0.3, training=False) is x and drop(x, 0.0) is x
    assert drop(x[:0], 0.3).shape == (0, 3)


def test_type_is_kept() -> None:
    assert drop(torch.ones(5, dtype=torch.bfloat16), 0.2).dtype == torch.bfloat16
