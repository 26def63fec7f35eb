"""Two real processes, one of which works for longer than a collective waits, fails, or hangs."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import ready_python
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from tbps.training.distributed import Team, on_main

PATIENCE_S = 2.0


def _attempt(report: dict[str, Any], name: str, function: Any) -> None:
    began = time.monotonic()
    try:
        report[name] = function()
    except (ValueError, OSError, RuntimeError) as error:
        report[name] = f"{type(error).__name__}: {error}"
    report[f"{name}_s"] = time.monotonic() - began


def _work(seconds: float) -> str:
    """A little at a time, as a reader of files does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
    return "done"


def _fail_on_the_second() -> int:
    if dist.get_rank() == 1:
        raise FileNotFoundError(2, "No such file or directory", "model")
    return dist.get_rank()


def _child(folder: Path) -> None:
    Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=PATIENCE_S))])
    report: dict[str, Any] = {}
    together = Team.current().together
    _attempt(report, "main_at_work", lambda: on_main(lambda: _work(1.5 * PATIENCE_S), doing="counting sheep"))
    _attempt(report, "second_at_work", lambda: together(lambda: _work(1.5 * PATIENCE_S * dist.get_rank()), doing="counting"))
    _attempt(report, "second_fails", lambda: together(_fail_on_the_second, doing="opening the model"))
    _attempt(report, "both_go_on", lambda: together(dist.get_rank, doing="saying who they are"))
    # Nothing of this thread runs, though the process lives.
    _attempt(report, "main_hangs", lambda: on_main(lambda: time.sleep(2 * PATIENCE_S), doing="reading a file"))
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(report))
    os._exit(0)


@pytest.mark.slow
def test_work_is_waited_for_a_failure_is_named_and_a_hang_is_given_up(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__, str(tmp_path)]
    around = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ready_python.run(words, folder=tmp_path, variables=around, timeout_s=120).check_returncode()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["main_at_work"] == second["main_at_work"] == "done"
    assert second["main_at_work_s"] > PATIENCE_S
    assert first["second_at_work"] == second["second_at_work"] == ["done", "done"]
    assert first["second_at_work_s"] > PATIENCE_S
    sentence = "[Errno 2] No such file or directory: 'model'"
    assert second["second_fails"] == f"FileNotFoundError: {sentence}"
    assert first["second_fails"] == f"ValueError: rank 1 on {platform.node()} failed while opening the model: {sentence}"
    assert first["both_go_on"] == second["both_go_on"] == [0, 1]
    host = platform.node()
    assert second["main_hangs"] == f"DistStoreError: rank 0 ({host}) got nowhere for 2 s while reading a file"
    assert PATIENCE_S <= second["main_hangs_s"] < 2.5 * PATIENCE_S


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
