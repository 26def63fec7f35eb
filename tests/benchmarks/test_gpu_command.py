"""benchmarks/gpu.py: small on a CPU, killed and gone on with; without a card, with an old driver, with too little memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu
import gpu_measure
import pytest
import torch
from gpu_measure import Bench, TimeOver
from gpu_order import PARTS, Order
from gpu_table import goals
from real_methods import build, run_of
from real_step import RealStep

COMMAND = Path(gpu.__file__)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """What a run has written by now."""
    path = out.with_suffix(".json")
    return list(json.loads(path.read_text())["rows"]) if path.exists() else []


@pytest.mark.slow
def test_quick_measures_every_part_though_it_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.md"
    words = ["--quick", "--methods", "clip", "rasa", "--pairs", "4", "--seconds", "600", "--out", str(out)]
    process = subprocess.Popen([sys.executable, str(COMMAND), *words], stdout=subprocess.DEVNULL, start_new_session=True)
    while not any(row["part"] == "speed" for row in rows_of(out)) and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)  # its processes too: nobody waits for what they still measure
    assert process.wait() == -9
    before = [row for row in rows_of(out) if row["part"] == "speed"]
    assert gpu.main(words) == 0
    rows, text, printed = rows_of(out), out.read_text(), capsys.readouterr().out
    assert text in printed and f"python benchmarks/gpu.py {' '.join(words)}" in text and all(row in rows for row in before)
    measured = {(row["method"], row["part"]) for row in rows if "error" not in row}
    told = ("same", "cost", "speed", "evaluation", "trace", "loader", "foretold")
    assert {*((name, part) for name in ("clip", "rasa") for part in told), ("clip", "loop")} <= measured
    assert all(row["error"].startswith("not compiled, eager alone was measured") for row in rows if "error" in row)
    speeds = {(row["method"], row["who"], row["precision"]): row["pairs_per_s"] for row in rows if row["part"] == "speed"}
    assert speeds.keys() == {
        ("clip", "ours", "bf16"),
        ("rasa", "ours", "bf16"),
        *(("rasa", "plain", p) for p in ("bf16", "tf32")),
    }
    assert f"| {speeds['rasa', 'ours', 'bf16'] / speeds['rasa', 'plain', 'bf16']:.2f}x |" in text
    core = next(row["pairs_per_core_s"] for row in rows if row["part"] == "loader" and row["method"] == "clip")
    foretold = next(row["peak_mib"] for row in rows if row["part"] == "foretold" and row["method"] == "clip")
    assert f"| {foretold / 1024:.1f} | {speeds['clip', 'ours', 'bf16'] / core:.1f} |" in text
    assert 0 <= next(row["wait_share"] for row in rows if row["part"] == "loop") <= 1
    assert "| host syncs of a step, any method | at most 0 | not measured | - |" in printed.splitlines()
    found = json.loads(out.with_suffix(".json").read_text())
    out.with_suffix(".json").write_text(json.dumps(found | {"facts": {**found["facts"], "device": "another card"}}))
    assert gpu.main(words) == 2
    assert "holds rows of device another card, and this is" in capsys.readouterr().err


OLD_DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 11040; return 0; }
"""
"""All that CUDA's runtime asks of a driver that is too old for it."""


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        ("", "no CUDA device is found"),
        (OLD_DRIVER, "the NVIDIA driver is too old: it knows CUDA 11.4 at most, and PyTorch"),
    ],
    ids=["no card", "old driver"],
)
def test_without_a_device_it_says_so(driver: str, said: str, tmp_path: Path) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    if driver:
        if not (shutil.which("gcc") and torch.version.cuda):
            pytest.skip("needs gcc, and a PyTorch made for CUDA")
        (tmp_path / "driver.c").write_text(driver)
        library = ["-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(tmp_path / "driver.c")]
        subprocess.run(["gcc", *library], check=True)
        environment["LD_LIBRARY_PATH"] = str(tmp_path)
        del environment["CUDA_VISIBLE_DEVICES"]
    done = subprocess.run([sys.executable, str(COMMAND)], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "--quick shows on a CPU that the command works" in done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.glob("gpu*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pairs", "1"), "--pairs is 1, expected 2 or more"),
        (("--seconds", "0"), "--seconds is 0, expected more than 0"),
        (("--beside", "none.json"), "none.json cannot be read (No such file or directory); expected the JSON that"),
    ],
)
def test_what_cannot_be_is_refused(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = gpu.main(["--quick", *words])
    except SystemExit as ended:
        status = ended.code
    assert status == 2 and said in capsys.readouterr().err


def test_a_batch_for_which_memory_is_too_little_is_halved(capsys: pytest.CaptureFixture[str]) -> None:
    order = Order(name="clip", quick=True, device="cpu", pairs=(8,), parts=PARTS, precisions=("bf16",), known=(), trace="")
    bench = Bench(order)

    def grow(_: Any, given: tuple[Any, ...]) -> None:
        if len(given[0].identity_B) > 2:
            torch.empty(2**60, dtype=torch.uint8)  # which no machine has

    bench.method.register_forward_pre_hook(grow)
    bench.eager()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["pairs"], row.get("error")) for row in rows] == [
        (8, "too little memory, so 4 pairs were measured"),
        (4, "too little memory, so 2 pairs were measured"),
        (2, None),
    ]
    bench.known = {gpu_measure.key(row) for row in rows[:1]}
    bench.until = 0.0
    bench.eager()  # is known
    bench.known = set()
    with pytest.raises(TimeOver):
        bench.eager()


def test_goals_are_met_or_not_by_their_figures() -> None:
    speed = {"part": "speed", "who": "ours", "precision": "bf16", "compiled": False, "peak_mib": 1000.0}
    rows: list[dict[str, Any]] = [
        {**speed, "method": "clip", "pairs": 128, "pairs_per_s": 3300.0},
        {**speed, "method": "clip", "pairs": 128, "pairs_per_s": 3630.0, "compiled": True},
        {**speed, "method": "irra", "pairs": 32, "pairs_per_s": 2400.0},
        {"method": "irra", "part": "foretold", "precision": "bf16", "pairs": 32, "peak_mib": 1050.0},
        {"method": "clip", "part": "loop", "wait_share": 0.031},
        {"method": "mars", "part": "evaluation", "error": "failed"},
        {"method": "mars", "part": "same", "precision": "fp32", "loss": 1e-6, "gradient": 2e-4},
        {"method": "mars", "part": "same", "precision": "bf16", "loss": 1e-2, "gradient": 1e-1},
    ]
    table = {line.split(" | ")[0].removeprefix("| "): line.removesuffix(" |").split(" | ")[1:] for line in goals(rows)[2:]}
    assert table["clip, pairs a second"] == ["at least 3200", "3630", "met"]
    assert table["irra, pairs a second"] == ["at least 2500", "2400", "not met"]
    assert table["compiled to eager at 128 pairs, best method"] == ["at least 1.15", "1.1", "not met"]
    assert table["memory foretold, off by at most, %"] == ["at most 10", "5", "met"]
    assert table["share of steps that waits for data, %"] == ["at most 2", "3.1", "not met"]
    assert table["float32 losses and gradients beside the CPU's"] == ["at most 0.0001", "0.0002", "not met"]
    assert table["mars, CUHK-PEDES test with re-ranking, s"] == ["at most 20", "not measured", "-"]


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
