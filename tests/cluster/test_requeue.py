"""launch.requeue at the end of batch scripts that only end in all the ways a training can."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from cluster_jobs import Cluster

from launch.requeue import BATCH_LINE

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def submit(cluster: Cluster, log: Path, task: str, *options: str) -> str:
    """A job of one task, which does nothing where it was restarted."""
    script = log.with_suffix(".sh")
    once = f'[ -n "$SLURM_RESTART_COUNT" ] || {{ {task}; }}'
    script.write_text(f"#!/bin/bash\n{BATCH_LINE.format(python=sys.executable)}\nsrun bash -c '{once}'\n")
    return cluster.submit("--requeue", "--open-mode=append", f"--output={log}", *options, str(script))


GOES_ON = ("exit 75", "exit 143", "kill -KILL $$", "kill -SEGV $$")
ENDS = ("exit 1", "exit 2", "exit 130")


@pytest.mark.xdist_group("slurm")
def test_what_goes_on_and_what_ends(cluster: Cluster, tmp_path: Path) -> None:
    """All at once: Slurm lets every job wait for seconds before it is started again."""
    logs = {task: tmp_path / f"{number}.log" for number, task in enumerate((*GOES_ON, *ENDS, "array", "never"))}
    jobs = {task: submit(cluster, logs[task], task) for task in (*GOES_ON, *ENDS)}
    array = submit(cluster, logs["array"], "[ $SLURM_ARRAY_TASK_ID = 1 ] || exit 143", "--array=1-2")
    never = submit(cluster, logs["never"], "exit 143", "--no-requeue")
    for task in GOES_ON:
        assert cluster.state_at_end(jobs[task]) == "COMPLETED", f"{task}: {logs[task].read_text()}"
        assert cluster.facts(jobs[task])["Restarts"] == "1", task
        assert f": job {jobs[task]} goes back into the queue" in logs[task].read_text(), task
    for task in ENDS:
        assert cluster.state_at_end(jobs[task]) == "FAILED" and cluster.facts(jobs[task])["Restarts"] == "0", task
    assert [cluster.state_at_end(f"{array}_{number}") for number in (1, 2)] == ["COMPLETED"] * 2
    assert [cluster.facts(f"{array}_{number}")["Restarts"] for number in (1, 2)] == ["0", "1"]
    assert cluster.state_at_end(never) == "FAILED"
    said = f"srun ended with status 143; job {never} may not be requeued: a rank or its owner said so"
    assert said in logs["never"].read_text()


@pytest.mark.xdist_group("slurm losses")  # nobody else's controller is away meanwhile
def test_controller_that_is_away_for_a_minute(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path / "log", f"touch {tmp_path}/started; sleep 3; exit 143")
    cluster.wait_for("its task runs", (tmp_path / "started").exists)  # srun itself needs the controller to start it
    cluster.testbed.stop_daemon("slurmctld")
    time.sleep(60)  # srun and scontrol wait for 50 seconds by themselves
    cluster.testbed.start_daemon("slurmctld")
    assert cluster.state_at_end(job) == "COMPLETED", (tmp_path / "log").read_text()
    assert cluster.facts(job)["Restarts"] == "1"
