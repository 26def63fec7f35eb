"""What a cluster does to a job: it goes on by itself, ends as if nothing had happened, and loses no step to a signal."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cluster_jobs import ASK_S, Cluster, restarts, steps_done, weights_sha256
from small_world import AS_RECIPES_TRAIN, LAUNCH_TWO, World, call, metrics, shared_folder

# Tests on a Slurm mostly wait for its timers: two more groups beside the others of this folder, each on a Slurm of its own.
pytestmark = [pytest.mark.cluster, pytest.mark.slow]
signals, losses = pytest.mark.xdist_group("slurm signals"), pytest.mark.xdist_group("slurm losses")

STEPS = 40
"""With `paced`, so many that everything below happens while it trains."""
SMALL = ("--data.batch-pairs", "8", "--data.group-pairs", "4")
"""A step costs a quarter: what happens to a job does not depend on how much it computes."""
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1")
ONE_NODE = ("--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2")


def arguments(world: World, runs: Path) -> list[str]:
    """Nothing is saved but because of a signal, and at the end."""
    changes = ["--schedule.epochs", "1000", "--loop.save-steps", "100000", "--loop.log-steps", "1"]
    return ["tiny", *world.overrides(runs, recipe="pretrain_mals", max_steps=STEPS), *changes, *AS_RECIPES_TRAIN, *SMALL]


@pytest.fixture(scope="module")
def undisturbed(world: World) -> Path:
    """The run folder of two local processes; both groups share it."""

    def run(runs: Path) -> None:
        done = call(*LAUNCH_TWO, "recipes/pretrain_mals.py", *arguments(world, runs), timeout_s=600)
        assert done.returncode == 0, done.stderr

    return shared_folder(world.folder / "undisturbed", run) / "pretrain_mals/tiny"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job under way."""

    cluster: Cluster
    id: str
    log: Path
    run_folder: Path
    undisturbed: Path

    def make_steps(self, number: int) -> int:
        """Wait for so many more; how many are done then."""
        before = steps_done(self.run_folder)
        self.cluster.wait_for(f"{number} steps after step {before}", lambda: steps_done(self.run_folder) >= before + number)
        return steps_done(self.run_folder)

    def restart(self, number: int) -> None:
        """Wait for it."""

        def happened() -> bool:
            state = self.cluster.facts(self.id).get("JobState")
            assert state not in ("COMPLETED", "FAILED", "TIMEOUT"), self.log.read_text()
            return len(restarts(self.run_folder)) > number

        self.cluster.wait_for(f"restart {number}", happened, poll_s=ASK_S)

    def assert_ends_as_undisturbed(self, *, causes: list[str]) -> None:
        """COMPLETED, the same weights and metrics, restarted for these causes and no other."""
        assert self.cluster.state_at_end(self.id) == "COMPLETED", self.log.read_text()
        assert [line["cause"] for line in restarts(self.run_folder)] == ["submitted", *causes]
        assert weights_sha256(self.run_folder, STEPS) == weights_sha256(self.undisturbed, STEPS)
        assert metrics(self.run_folder) == metrics(self.undisturbed)


Submit = Callable[..., Job]


@pytest.fixture
def submit(cluster: Cluster, world: World, undisturbed: Path, tmp_path: Path) -> Submit:
    """Submit the run, as in slurm/pretrain_mals.sh; further words are options of sbatch, `more` overrides."""

    def submit(*options: str, more: tuple[str, ...] = ()) -> Job:
        run_folder = tmp_path / "runs/pretrain_mals/tiny"
        words = [f"--output={tmp_path}/log", *options, "slurm/pretrain_mals.sh", *arguments(world, tmp_path / "runs"), *more]
        job = cluster.submit(*words)
        return Job(cluster=cluster, id=job, log=tmp_path / "log", run_folder=run_folder, undisturbed=undisturbed)

    return submit


@signals
def test_requeued_three_times(submit: Submit) -> None:
    job = submit(*TWO_NODES)
    for number in (1, 2, 3):
        done = job.make_steps(3)
        with job.cluster.paced(job.id, job.run_folder):
            job.cluster.call("scontrol", "requeue", job.id)
            job.restart(number)
        assert restarts(job.run_folder)[number]["step"] >= done
    job.assert_ends_as_undisturbed(causes=["requeued"] * 3)
    assert f"Slurm job {job.id}, restart 3 (requeued), from step " in job.log.read_text()


@signals
def test_preempted_twice(submit: Submit) -> None:
    job = submit(*TWO_NODES)
    for number in (1, 2):
        done = job.make_steps(3)
        urgent = ("--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        with job.cluster.paced(job.id, job.run_folder):
            preempting = job.cluster.submit(*urgent)
            job.restart(number)
        assert job.cluster.state_at_end(preempting) == "COMPLETED"
        assert restarts(job.run_folder)[number]["step"] >= done
    job.assert_ends_as_undisturbed(causes=["preemption"] * 2)


@signals
def test_time_limit(submit: Submit) -> None:
    job = submit(*TWO_NODES, "--signal=USR2@50")
    done = job.make_steps(3)
    # Slurm looks twice a minute, so the signal comes 20 to 50 seconds before this end.
    end = (datetime.now() + timedelta(seconds=50)).isoformat(timespec="seconds")
    with job.cluster.paced(job.id, job.run_folder):
        assert job.cluster.call("scontrol", "update", f"JobId={job.id}", f"EndTime={end}").returncode == 0
        job.restart(1)
    job.cluster.call("scontrol", "update", f"JobId={job.id}", "TimeLimit=60")  # which the EndTime has shortened for good
    assert restarts(job.run_folder)[1]["step"] >= done
    job.assert_ends_as_undisturbed(causes=["time limit"])


@losses
def test_slurmd_killed_under_one_of_two_nodes(submit: Submit) -> None:
    job = submit(*TWO_NODES)
    job.make_steps(3)
    second = job.cluster.call("scontrol", "show", "hostnames", job.cluster.facts(job.id)["NodeList"]).stdout.split()[1]
    with job.cluster.paced(job.id, job.run_folder):
        job.cluster.testbed.stop_daemon(second, number=signal.SIGKILL)
        job.restart(1)
    assert second not in job.cluster.facts(job.id)["NodeList"]
    assert job.cluster.state_at_end(job.id) == "COMPLETED", job.log.read_text()
    assert weights_sha256(job.run_folder, STEPS) == weights_sha256(job.undisturbed, STEPS)


@losses
def test_slurmd_killed_under_a_run_that_lives_on(submit: Submit) -> None:
    job = submit(*ONE_NODE)
    job.make_steps(3)
    node = job.cluster.facts(job.id)["NodeList"]
    waits = "is held by what was there before the restart"
    with job.cluster.paced(job.id, job.run_folder):
        job.cluster.testbed.stop_daemon(node, number=signal.SIGKILL)
        job.cluster.wait_for("the restart waits", lambda: waits in job.log.read_text())
    assert job.cluster.facts(job.id)["NodeList"] != node
    assert job.cluster.state_at_end(job.id) == "COMPLETED", job.log.read_text()
    assert weights_sha256(job.run_folder, STEPS) == weights_sha256(job.undisturbed, STEPS)
    assert metrics(job.run_folder) == metrics(job.undisturbed)


@losses
def test_slurmctld_restarted_while_the_job_trains_and_stops(submit: Submit) -> None:
    job = submit(*TWO_NODES)
    done = job.make_steps(3)
    with job.cluster.paced(job.id, job.run_folder):
        job.cluster.testbed.stop_daemon("slurmctld")
        job.make_steps(3)
        job.cluster.testbed.start_daemon("slurmctld")
        job.cluster.call("scancel", "--signal=USR2", job.id)
        job.cluster.wait_for("a save", lambda: any(job.run_folder.glob("checkpoints/step-*")))
    job.cluster.testbed.stop_daemon("slurmctld")
    time.sleep(3)
    job.cluster.testbed.start_daemon("slurmctld")
    job.restart(1)
    assert restarts(job.run_folder)[1]["step"] >= done
    assert job.cluster.state_at_end(job.id) == "COMPLETED", job.log.read_text()
    assert weights_sha256(job.run_folder, STEPS) == weights_sha256(job.undisturbed, STEPS)


def _rank(pid: int) -> str:
    """SLURM_PROCID of a rank."""
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(line.removeprefix(b"SLURM_PROCID=").decode() for line in environment if line.startswith(b"SLURM_PROCID="))


@signals
def test_a_stop_never_ends_in_a_refusal_to_go_on(cluster: Cluster, tmp_path: Path) -> None:
    recipe = tmp_path / "fails.py"
    recipe.write_text(
        "import os, signal\n"
        "if 'SLURM_RESTART_COUNT' not in os.environ:\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except SystemExit:\n"
        "        raise ValueError('half a file')\n"
        "raise SystemExit(0)\n"
    )
    job = cluster.submit(f"--output={tmp_path}/log", "slurm/finetune.sh", str(recipe), "tiny")
    assert cluster.state_at_end(job) == "COMPLETED", (tmp_path / "log").read_text()
    assert "half a file" in (tmp_path / "log").read_text() and cluster.facts(job)["Restarts"] == "1"


@losses
def test_a_loader_worker_that_is_killed_is_named_and_the_job_goes_on(submit: Submit) -> None:
    job = submit(*TWO_NODES, more=("--loop.save-steps", "5"))
    job.make_steps(6)
    rank = next(pid for pid in job.cluster.ranks(job.id) if _rank(pid) == "1")
    victim = int(Path(f"/proc/{rank}/task/{rank}/children").read_text().split()[0])
    os.kill(victim, signal.SIGKILL)
    job.restart(1)
    cause = restarts(job.run_folder)[1]["cause"]
    assert f"worker process {victim} was killed by SIGKILL" in cause, job.log.read_text()
    job.assert_ends_as_undisturbed(causes=[cause])


@losses
@pytest.mark.parametrize(
    ("number", "silence"),
    [(signal.SIGKILL, "was lost: it ended without a word"), (signal.SIGSTOP, "has not been heard of for 10 s")],
    ids=["killed", "hung"],
)
def test_a_rank_that_is_lost_is_named_and_the_job_goes_on(submit: Submit, number: int, silence: str) -> None:
    job = submit(*TWO_NODES, more=("--loop.save-steps", "5", "--loop.timeout-s", "10"))
    job.make_steps(6)
    victim = next(pid for pid in job.cluster.ranks(job.id) if _rank(pid) == "1")
    os.kill(victim, number)
    job.restart(1)
    cause = restarts(job.run_folder)[1]["cause"]
    assert cause.startswith(f"rank 1 (process {victim} on ") and silence in cause, job.log.read_text()
    assert restarts(job.run_folder)[1]["step"] >= 5
    job.assert_ends_as_undisturbed(causes=[cause])


@signals
def test_cancelled_by_the_user_stays_cancelled(submit: Submit) -> None:
    job = submit(*TWO_NODES)
    done = job.make_steps(3)
    with job.cluster.paced(job.id, job.run_folder):
        job.cluster.call("scancel", job.id)
        assert job.cluster.state_at_end(job.id) == "CANCELLED"
    assert any(job.run_folder.glob("checkpoints/step-*")) and steps_done(job.run_folder) >= done


@signals
def test_restarts_without_a_step_end(cluster: Cluster, world: World, tmp_path: Path) -> None:
    recipe = tmp_path / "dies.py"
    recipe.write_text(
        "import os, sys\nfrom recipes.mars import tiny\nVARIANTS = {'tiny': tiny}\n"
        "class Dies:\n    def find_spec(self, name, path, target=None):\n"
        "        if name == 'tbps.run':\n            os.kill(os.getpid(), 9)\nsys.meta_path.insert(0, Dies())\n"
    )
    words = ("slurm/finetune.sh", str(recipe), "tiny", *world.overrides(tmp_path / "runs"))
    job = cluster.submit(f"--output={tmp_path}/log", *words)
    assert cluster.state_at_end(job) == "FAILED"
    log = (tmp_path / "log").read_text()
    assert f"job {job} was restarted 3 times without a step after step 0" in log, log
    assert cluster.facts(job)["Restarts"] == "4"
