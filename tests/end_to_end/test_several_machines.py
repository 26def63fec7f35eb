"""The command of launch/README.md for several machines without a job manager: here both are this one."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from small_world import REPOSITORY, World, environment, metrics


def _start(machine: int, port: int, arguments: list[str]) -> subprocess.Popen[str]:
    settings = ["--config_file", "launch/accelerate/multi_node.yaml", "--machine_rank", str(machine)]
    where = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port), "--num_processes", "2"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *settings, *where]
    words = [*launch, "recipes/mars.py", *arguments]
    return subprocess.Popen(words, cwd=REPOSITORY, env=environment(), text=True, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_two_machines_train_one_run(world: World, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["tiny", *world.overrides(tmp_path, max_steps=2), "--evaluation.test", "False"]
    machines = [_start(machine, port, arguments) for machine in (0, 1)]
    printed = [process.communicate(timeout=180)[1] for process in machines]
    assert [process.returncode for process in machines] == [0, 0], "\n".join(printed)
    assert [line["step"] for line in metrics(tmp_path / "mars/tiny") if "split" not in line] == [1, 2]
    assert printed[0].count(" MiB") == 2, "one process on each machine"
