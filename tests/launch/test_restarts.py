"""How often a job may start again without a step. With a real Slurm: tests/cluster/test_interruptions.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.restarts import announce_start, note_stop, read_restarts
from launch.slurm_job import SlurmJob
from tbps.runs.run_folder import RunFolder


def start_and_stop(folder: RunFolder, causes: list[str]) -> None:
    """A job that makes no step: submitted, then restarted because of each cause."""
    announce_start(folder, SlurmJob(id="7", restarts=0))
    for number, cause in enumerate(causes):
        note_stop(folder, SlurmJob(id="7", restarts=number), cause)
        announce_start(folder, SlurmJob(id="7", restarts=number + 1))


@pytest.mark.parametrize("cause", ["lost rank", "time limit"])
def test_four_restarts_without_a_step_are_refused(tmp_path: Path, cause: str) -> None:
    with pytest.raises(
        ValueError, match=rf"job 7 was restarted 3 times without a step after step 0 \(last cause: {cause}\)"
    ):
        start_and_stop(RunFolder(tmp_path), [cause] * 4)
    assert len(read_restarts(tmp_path).starts) == 4


@pytest.mark.parametrize("cause", ["preemption", "requeued"])
def test_what_the_cluster_asked_for_is_never_refused(tmp_path: Path, cause: str) -> None:
    start_and_stop(RunFolder(tmp_path), [cause] * 6)
    assert [line["cause"] for line in read_restarts(tmp_path).starts] == ["submitted", *[cause] * 6]


def test_accidents_between_preemptions_count(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a step"):
        start_and_stop(RunFolder(tmp_path), ["preemption", "lost rank"] * 4)


def test_a_step_starts_the_count_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    start_and_stop(folder, ["lost rank"] * 3)
    (folder.checkpoints / "step-00000001").mkdir(parents=True)
    announce_start(folder, SlurmJob(id="7", restarts=4))
    announce_start(folder, SlurmJob(id="7", restarts=5))
