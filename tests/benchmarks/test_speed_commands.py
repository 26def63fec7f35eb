"""The benchmark commands run at tiny size and print every row of their tables."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from counting import count
from small_world import call

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: str) -> str:
    done = call(sys.executable, str(BENCHMARKS / arguments[0]), *arguments[1:], timeout_s=300)
    done.check_returncode()
    return done.stdout


@pytest.mark.slow
def test_step() -> None:
    printed = run("step.py", "--quick", "--rounds", "2")
    rows = {line.split("  ")[0]: line.split() for line in printed.splitlines()}
    for title in ("ours, fp32, same GEMM library", "ours, fp32 by oneDNN", "ours, fp32, library chosen at start-up"):
        assert float(rows[title][-1]) < 1e-5, title  # largest difference of a loss
    assert "ours, bf16 autocast" in rows
    plain, ours = rows["host syncs"][-2:]
    assert int(plain) > 30 and int(ours) <= 5
    assert "optimiser + momentum encoder" in rows and "the same with activation checkpointing" in rows


@pytest.mark.slow
def test_rerank() -> None:
    printed = run("rerank.py", "--quick", "--rounds", "1", "--skewed")
    for name in ("mars", "rasa"):
        table = printed[printed.index(f"{name}:") :].splitlines()[2:6]
        differences = [float(line.split()[-1]) for line in table[1:]]
        assert [line.split(",")[0] for line in table] == ["baseline", "ours", "ours", "ours"]
        assert max(differences[:2]) < 1e-4 and differences[2] < 0.2


@pytest.mark.slow
def test_methods() -> None:
    printed = run("method_steps.py", "--quick", "--pairs", "4", "--image-px", "32", "32", "--rounds", "1")
    assert [line.split(":")[1] for line in printed.splitlines()[:3]] == [" rasa", " aga", " laip"]
    assert "4.5 phrases a caption" in printed.splitlines()[2]
    table = [line.split() for line in printed.splitlines()[-3:]]
    assert [row[0] for row in table] == ["rasa", "aga", "laip"]
    for _, seconds, time_ratio, mib, memory_ratio in table:
        assert float(seconds) > 0 and float(mib) > 100
        assert float(time_ratio) == pytest.approx(float(seconds) / float(table[0][1]), abs=0.02)
        assert float(memory_ratio) == pytest.approx(float(mib) / float(table[0][3]), abs=0.02)


@pytest.mark.slow
def test_irra() -> None:
    printed = run("irra_step.py", "--quick", "--pairs", "3", "--rounds", "1")
    for padding in ("official", "masked"):
        table = printed[printed.index(f"padding {padding} ") :].splitlines()[1:5]
        plain, ours = (row.split() for row in table[:2])
        assert (plain[0], plain[2], ours[0]) == ("plain", "1.00x", "ours")
        assert float(ours[2].rstrip("x")) == pytest.approx(float(plain[1]) / float(ours[1]), rel=0.2)
        assert 0 < float(ours[3]) < float(ours[1]) and float(ours[4]) > 100
        assert re.fullmatch(r"without Adam \d+\.\d+ and \d+\.\d+ C?P?U? ?s: \d+\.\d+x", table[2])
        assert float(table[3].split("relative difference ")[1].split()[0]) <= 1e-5


def test_fewer_than_two_pairs_are_refused() -> None:
    done = call(sys.executable, str(BENCHMARKS / "method_steps.py"), "--pairs", "1")
    assert done.returncode == 2
    assert "--pairs is 1, expected 2 or more" in done.stderr


def test_rounds_below_two_are_refused() -> None:
    done = call(sys.executable, str(BENCHMARKS / "step.py"), "--rounds", "1")
    assert done.returncode == 2
    assert "--rounds is 1, expected 2 or more: the first round is dropped" in done.stderr


def test_counting_of_host_syncs() -> None:
    x, mask = torch.arange(4.0), torch.tensor([True, False, True, True])

    def step() -> None:
        x[mask]
        x.masked_select(mask)
        x.sum().item()
        x[mask] = 1.0  # one value through a mask needs no count
        x[mask] = torch.ones(3)
        x[torch.tensor([0, 1])]

    assert count(step).syncs == 4


def test_counting_of_work() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert count(lambda: a @ b).gflop == pytest.approx(2 * 3 * 4 * 5 / 1e9)


@pytest.mark.slow
def test_fusion() -> None:
    printed = run("fusion.py", "--pairs", "1", "--words", "9", "--rounds", "1")
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]
    assert [row[0] for row in rows] == ["plain cross-transformer", "bottleneck"]
    plain, bottleneck = (dict(zip(head[1:], map(float, row[1:]), strict=True)) for row in rows)
    assert plain["weights, M"] == bottleneck["weights, M"], "but for four tokens"
    # An image and a caption are begun once; of a pair, three of four layers are left.
    assert (
        bottleneck["score, GFLOP"] < 0.75 * plain["score, GFLOP"] and bottleneck["begun, GFLOP"] > plain["begun, GFLOP"] == 0
    )


@pytest.mark.slow
def test_scale(tmp_path: Path) -> None:
    printed = run("scale.py", "--folder", str(tmp_path / "made"), "--pairs", "20000")
    assert len(set(re.findall(r"sha256 (\w+)", printed))) == 1 and printed.count("sha256") == 7
    assert printed.count("different 16384\n") == 4
    assert float(re.search(r"opened in (\S+) s", printed)[1]) < 5  # type: ignore[index]
    assert 10 < float(re.search(r"at most (\S+) MB lay there", printed)[1]) <= 50  # type: ignore[index]
