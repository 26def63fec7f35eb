"""launch.testbed: a Slurm that starts, says what it is, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_jobs import REPOSITORY, Cluster

from launch.testbed import Testbed, main, missing_programs

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("slurm")]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a testbed of its own, beside the one of the other tests."""
    if missing := missing_programs():
        pytest.skip(f"Slurm is not installed ({', '.join(missing)} missing)")
    folder = tmp_path_factory.mktemp("second")
    yield folder
    Testbed(folder).stop()


def call(action: str, folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    words = (sys.executable, "-m", "launch.testbed", action, "--folder", str(folder))
    environment = {**os.environ, **changes}
    return subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_starts_twice_as_once_and_stops_with_all_that_jobs_started(folder: Path) -> None:
    assert "n3         not running" in call("status", folder).stdout
    first = call("start", folder)
    assert first.returncode == 0 and first.stdout == (
        f"export SLURM_CONF={folder}/slurm.conf\nexport ACCELERATE_USE_CPU=true\n"
    ), first.stderr
    testbed = Testbed(folder)
    daemons = testbed.daemons()
    assert call("start", folder).stdout == first.stdout and testbed.daemons() == daemons
    shown = call("status", folder).stdout
    assert all(f"process {pid}" in shown for pid in daemons.values()) and "gpu:4" in shown and "urgent" in shown

    cluster = Cluster(testbed)
    stubborn = "trap '' TERM; setsid sleep 1000 & sleep 1000"
    job = cluster.submit("--nodes=2", f"--output={folder}/job", f'--wrap=srun bash -c "{stubborn}"')
    cluster.wait_for("the job runs", lambda: cluster.facts(job).get("JobState") == "RUNNING")
    cluster.wait_for("its tasks run", lambda: b"sleep" in b"".join(commands_naming(folder)))

    assert call("stop", folder).returncode == 0
    assert not any(testbed.daemons().values()) and not list(commands_naming(folder))
    assert call("stop", folder).returncode == 0


def commands_naming(folder: Path) -> Iterator[bytes]:
    """Command lines of the living processes that know this Slurm, by their arguments or their environment."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if command and (f"{folder}/".encode() in command or f"SLURM_CONF={folder}/".encode() in environment):
            yield command


def test_folder_that_slurm_cannot_write_into_its_conf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", "--folder", str(tmp_path / "a b")]) == 2
    assert "a character that slurm.conf cannot hold; give another one with --folder" in capsys.readouterr().err
    assert main(["start", "--folder", f"/tmp/{'long' * 20}"]) == 2
    assert "has 85 characters, expected at most 80 (it holds sockets)" in capsys.readouterr().err


def test_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("launch.testbed._SEARCH_PATH", str(tmp_path))
    assert main(["start", "--folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "launch.testbed: munged, slurmctld, slurmd, sbatch, srun, scontrol, sinfo, squeue, scancel not found;"
        " on Debian or Ubuntu: apt-get install slurm-wlm munge\n"
    )
