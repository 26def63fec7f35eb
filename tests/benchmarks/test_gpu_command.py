"""benchmarks/gpu.py: small on a CPU, without a card, and in whichever precision a step is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import gpu
import pytest
import torch
from real_methods import build, run_of
from real_step import RealStep


@pytest.mark.slow
def test_quick_measures_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.md"
    words = ["--quick", "--methods", "clip", "rasa", "--pairs", "4", "6", "--seconds", "600", "--out", str(out)]
    assert gpu.main(words) == 0
    found = json.loads(out.with_suffix(".json").read_text())
    text = out.read_text()
    assert text in capsys.readouterr().out and f"python benchmarks/gpu.py {' '.join(words)}" in text
    rows = {(row["method"], row["part"]) for row in found["rows"] if "error" not in row}
    assert {(name, part) for name in ("clip", "rasa") for part in ("same", "cost", "speed", "evaluation", "trace")} <= rows
    speeds = [row for row in found["rows"] if row["part"] == "speed"]
    assert {(row["method"], row["who"], row["pairs"]) for row in speeds} == {
        *(("clip", "ours", pairs) for pairs in (4, 6)),
        *(("rasa", who, pairs) for who in ("ours", "plain") for pairs in (4, 6)),
    }
    for row in speeds:
        assert row["pairs_per_s"] == pytest.approx(1000 * row["pairs"] / row["step_ms"])
    plain, ours = ([row for row in speeds if row["method"] == "rasa" and row["who"] == who] for who in ("plain", "ours"))
    ratio = next(row["pairs_per_s"] for row in ours if row["pairs"] == 4) / next(
        row["pairs_per_s"] for row in plain if row["pairs"] == 4 and row["precision"] == "bf16"
    )
    assert f"| {ratio:.2f}x |" in text
    errors = [row["error"] for row in found["rows"] if "error" in row]
    assert all(error.startswith("not compiled, eager alone was measured") for error in errors), errors


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "found" in told and "with --quick" in told


def test_a_single_pair_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--quick", "--pairs", "1"])
    assert "--pairs is 1, expected 2 or more" in capsys.readouterr().err


def test_each_precision_is_the_one_that_is_asked_for() -> None:
    method = build(run_of("clip", quick=True))
    found = []
    for precision in ("bf16", "bf16", "fp32", "bf16"):
        steps = RealStep(run_of("clip", quick=True, pairs=4, precision=precision), method, torch.device("cpu"))
        seen: list[torch.dtype] = []
        hook = method.towers.image.blocks[0].fc1.register_forward_hook(lambda *told, seen=seen: seen.append(told[2].dtype))
        steps.step()
        hook.remove()
        found.append(seen[0])
    assert found == [torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16]
