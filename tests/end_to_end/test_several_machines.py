"""The command of launch/README.md for several machines without a job manager: here both are this one."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from ready_python import Ready
from small_world import REPOSITORY, World, environment, metrics


def _start(machine: int, port: int, folder: Path, arguments: list[str]) -> Ready:
    settings = ["--config_file", "launch/accelerate/multi_node.yaml", "--machine_rank", str(machine)]
    where = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port), "--num_processes", "2"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *settings, *where]
    words = [*launch, "recipes/mars.py", *arguments]
    said = {"output": folder / f"output{machine}", "errors": folder / f"errors{machine}"}
    return Ready(words, folder=REPOSITORY, variables=environment(), **said)


@pytest.mark.slow
def test_two_machines_train_one_run(world: World, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["tiny", *world.overrides(tmp_path, max_steps=2), "--evaluation.test", "False"]
    machines = [_start(machine, port, tmp_path, arguments) for machine in (0, 1)]
    try:
        statuses = [machine.wait(180) for machine in machines]
    finally:
        for machine in machines:
            machine.kill_all()
    printed = [(tmp_path / f"errors{number}").read_text() for number in (0, 1)]
    assert statuses == [0, 0], "\n".join(printed)
    assert [line["step"] for line in metrics(tmp_path / "mars/tiny") if "split" not in line] == [1, 2]
    assert printed[0].count(" MiB") == 2, "one process on each machine"
