"""What the doctor says of this machine, of a run, and of a Slurm that answers badly (a real program of that name)."""

from __future__ import annotations

import json
import platform
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ready_python import Ready
from small_world import LAUNCH_TWO, call, environment

from recipes.mars import VARIANTS
from tbps.command import main
from tbps.config.serialise import to_json
from tbps.runs import checkpoint

CONFIG = """Configuration data as of 2026-01-01T00:00:00
JobRequeue              = 1
KillWait                = {kill_wait} sec
PreemptMode             = {mode}
PreemptType             = preempt/partition_prio
SlurmctldParameters     = preempt_send_user_signal
"""


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "mars" / "tiny"
    checkpoint.save(folder / "checkpoints", step=1, model={}, optimiser={}, progress={"step": 1})
    (folder / "timing.json").write_text(json.dumps({"step_s": 2.0, "save_s": 10.0}))
    return folder


def _slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, *, status: int = 0) -> None:
    """A program called scontrol that answers with `text`, first on the path."""
    folder.mkdir()
    (folder / "answer").write_text(text)
    (folder / "scontrol").write_text(f"#!/bin/sh\ncat '{folder}/answer' {'>&2' if status else ''}\nexit {status}\n")
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_healthy_machine(run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _slurm(run_folder / "bin", monkeypatch, CONFIG.format(kill_wait=30, mode="REQUEUE"))
    assert main(["doctor", str(run_folder), "--runs", str(run_folder.parents[1])]) == 0
    printed = capsys.readouterr().out
    for part in (
        "rank  host",
        "torch 2.",
        "Slurm preempts by REQUEUE, and sends USR2 first",
        "keep a second copy of a run out",
    ):
        assert part in printed, printed
    assert f"KillWait is 30 s, a step and a save of {run_folder} took 12.0 s" in printed
    assert f"a checkpoint of {run_folder} has 0.00 GiB" in printed and "BAD" not in printed


@pytest.mark.parametrize(
    ("kill_wait", "mode", "part"),
    [
        (17, "REQUEUE", "took 12.0 s: ask for KillWait=19, or lose the steps since the last save at every requeue"),
        (30, "CANCEL", "a preempted job is not started again; ask for PreemptMode=REQUEUE"),
    ],
)
def test_a_slurm_that_loses_steps(
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kill_wait: int,
    mode: str,
    part: str,
) -> None:
    _slurm(run_folder / "bin", monkeypatch, CONFIG.format(kill_wait=kill_wait, mode=mode))
    assert main(["doctor", str(run_folder), "--runs", str(run_folder.parents[1])]) == 1
    bad = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BAD")]
    assert len(bad) == 1 and part in bad[0]


def test_a_speed_that_cannot_be_read_is_told_with_its_file(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _slurm(run_folder / "bin", monkeypatch, CONFIG.format(kill_wait=30, mode="REQUEUE"))
    (run_folder / "timing.json").write_text('{"step_s": 2')
    assert main(["doctor", str(run_folder), "--runs", str(run_folder.parents[1])]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"tbps: {run_folder / 'timing.json'} cannot be read (") and told.count("\n") == 1
    assert told.endswith("; remove it: the run's next save writes it again\n")


def test_a_slurm_that_does_not_answer(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _slurm(run_folder / "bin", monkeypatch, "slurm_load_ctl_conf error: Unable to contact slurm controller", status=1)
    assert main(["doctor", "--runs", str(run_folder.parents[1])]) == 1
    assert "BAD  scontrol does not answer (slurm_load_ctl_conf error: Unable to contact" in capsys.readouterr().out


@pytest.mark.parametrize("workers", [2, 10_000_000])
def test_batches_and_shared_memory(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    run = VARIANTS["cuhk-pedes"]()
    run = replace(run, data=replace(run.data, workers=workers, micro_batch_pairs=8))
    (run_folder / "config.json").write_text(json.dumps({"run": to_json(run)}))
    monkeypatch.setenv("PATH", str(run_folder))  # no Slurm
    assert main(["doctor", str(run_folder), "--runs", str(run_folder.parents[1])]) == (0 if workers == 2 else 1)
    told = next(line for line in capsys.readouterr().out.splitlines() if "/dev/shm" in line)
    pairs, (height, width) = run.data.micro_batch_pairs, run.data.image_px
    mib = (workers * 4 + 1) * pairs * 3 * height * width / 2**20
    assert f"batches of {run_folder} take {mib:.0f} MiB ({workers} workers a process)" in told
    assert told.startswith("ok  " if workers == 2 else "BAD ")
    assert ("enlarge it (Docker: --shm-size), or lower --data.workers" in told) == (workers != 2)


@pytest.mark.slow
def test_two_processes_are_listed(tmp_path: Path) -> None:
    done = call(*LAUNCH_TWO, "-m", "tbps.command", "doctor", "--runs", str(tmp_path))
    ranks = [line.split()[0] for line in done.stdout.splitlines() if line.strip()[:2] in ("0 ", "1 ")]
    assert ranks == ["0", "1"], done.stdout + done.stderr
    assert f"locks in {tmp_path} keep a second copy of a run out" in done.stdout


def _two_processes(folder: Path) -> tuple[str, list[int]]:
    """The doctor on two processes, each in a folder of its own with a `runs` of its own, as nodes that share nothing."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = []
    for rank in (0, 1):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables = environment(**{name: str(value) for name, value in place.items()})
        cwd = folder / str(rank)
        cwd.mkdir(exist_ok=True)
        words, said = [sys.executable, "-m", "tbps.command", "doctor"], {"output": cwd / "said", "errors": cwd / "errors"}
        (cwd / "said").unlink(missing_ok=True)
        processes.append(Ready(words, folder=cwd, variables=variables, **said))
    statuses = [process.wait(120) for process in processes]
    assert not any("Traceback" in (folder / str(rank) / "errors").read_text() for rank in (0, 1))
    return (folder / "0" / "said").read_text(), statuses


@pytest.mark.slow
def test_a_folder_of_runs_that_is_not_shared_is_told(tmp_path: Path) -> None:
    (tmp_path / "0" / "runs").mkdir(parents=True)
    host, share = platform.node(), "choose one on a file system that all nodes share, with --runs"
    said, statuses = _two_processes(tmp_path)
    assert f"BAD  runs does not exist on {host}\nBAD  runs is not the same on all: {share}" in said
    assert statuses == [1, 1]
    (tmp_path / "1" / "runs").mkdir()
    said, statuses = _two_processes(tmp_path)
    assert f"BAD  runs on {host} is another folder than that of rank 0: {share}" in said
    assert statuses == [1, 1]
    assert not list(tmp_path.rglob(".doctor-lock"))
