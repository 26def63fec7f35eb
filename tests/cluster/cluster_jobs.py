"""Jobs on the testbed as a user submits them, and what they left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.testbed import Testbed

REPOSITORY = Path(__file__).parents[2]
WAIT_S = 300.0
ASK_S = 0.4
"""Between two questions to Slurm: each takes five milliseconds of a core, and more of its daemons."""
_TASKS = {b"launch.rank", b"submitit.core._submit"}
"""Modules that they run, without and with launch.submit."""
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")


class Cluster:
    """A testbed, called as from a shell."""

    def __init__(self, testbed: Testbed) -> None:
        self.testbed = testbed

    def environment(self) -> dict[str, str]:
        """A shell with this Slurm, this Python first on PATH, one thread a process and no GPU."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
        return {**os.environ, **quiet, **self.testbed.environment(), "PATH": path}

    def call(self, *words: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
        """A command with its output."""
        return subprocess.run(
            words, cwd=cwd, env=self.environment(), capture_output=True, text=True, timeout=WAIT_S, check=False
        )

    def submit(self, *words: str, cwd: Path = REPOSITORY) -> str:
        """`sbatch <words>`; the job's id."""
        done = self.call("sbatch", "--parsable", *words, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says."""
        words = self.call("scontrol", "show", "job", "--oneliner", job).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, what: str, happened: Callable[[], bool], *, wait_s: float = WAIT_S, poll_s: float = 0.1) -> None:
        """Poll; AssertionError says what did not happen."""
        deadline = time.monotonic() + wait_s
        while not happened():
            assert time.monotonic() < deadline, f"not within {wait_s:g} s: {what}"
            time.sleep(poll_s)

    def state_at_end(self, job: str) -> str:
        """Wait until the job has ended; Slurm's word for how."""
        self.wait_for(f"job {job} ends", lambda: self.facts(job).get("JobState") in _ENDED, poll_s=ASK_S)
        return self.facts(job)["JobState"]

    def ranks(self, job: str) -> list[int]:
        """Living tasks of a job that train, without their loader workers."""
        found: dict[int, int] = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (process / "environ").read_bytes().split(b"\0")
                ours = {f"SLURM_CONF={self.testbed.conf}".encode(), f"SLURM_JOB_ID={job}".encode()} <= set(environment)
                if ours and _TASKS & set((process / "cmdline").read_bytes().split(b"\0")[1:4]):
                    found[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        return [process for process, parent in found.items() if parent not in found]

    @contextmanager
    def paced(self, job: str, run_folder: Path) -> Iterator[None]:
        """Hold the ranks that live now to a step in two seconds, so that a run lasts longer than Slurm's timers."""
        pids, ended = self.ranks(job), threading.Event()
        assert pids, f"job {job} has no ranks"
        began, first = time.monotonic(), steps_done(run_folder)

        def pace() -> None:
            held = False
            while not ended.wait(0.05):
                is_early = steps_done(run_folder) - first > 0.5 * (time.monotonic() - began)
                if is_early != held:
                    held = is_early
                    _send(pids, signal.SIGSTOP if held else signal.SIGCONT)
            _send(pids, signal.SIGCONT)

        thread = threading.Thread(target=pace)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def cancel_all(self) -> None:
        """Leave empty nodes behind."""
        self.call("scancel", "--user", str(os.getuid()))
        self.wait_for("all jobs end", lambda: not self.call("squeue", "--noheader").stdout)


def _send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def steps_done(run_folder: Path) -> int:
    """Optimiser steps in metrics.jsonl."""
    file = run_folder / "metrics.jsonl"
    found = re.findall(r'"step": (\d+)', file.read_text()) if file.exists() else []
    return int(found[-1]) if found else 0


def weights_sha256(run_folder: Path, step: int) -> str:
    """Digest of the weights after `step`, as their manifest says."""
    manifest = json.loads((run_folder / f"checkpoints/step-{step:08d}/manifest.json").read_text())
    digest: str = manifest["files"]["model.safetensors"]["sha256"]
    return digest


def restarts(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of restarts.jsonl."""
    return [json.loads(line) for line in (run_folder / "restarts.jsonl").read_text().splitlines()]
