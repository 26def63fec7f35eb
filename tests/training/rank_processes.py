"""Two processes of a run, started without a launcher."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ready_python import Ready

PROCESSES = 2
DISTURBED = Path(__file__).with_name("disturbed_process.py")


@contextmanager
def disturbed(runs: Path, *, ranks: list[int], step: dict[str, int], zero: int = 0, **changes: Any) -> Iterator[list[Ready]]:
    """The processes of the small run, where something happens on `ranks`; zero: the stage."""
    stage = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(zero)} if zero else {}
    words = [json.dumps(changes), json.dumps(ranks), json.dumps(step)]
    with rank_processes(runs, DISTURBED, *words, **stage) as processes:
        yield processes


@contextmanager
def rank_processes(runs: Path, script: Path, *words: str, **variables: str) -> Iterator[list[Ready]]:
    """The processes of a run, started as Slurm does: nobody watches them but they themselves."""
    runs.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = []
    for rank in range(PROCESSES):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
        environment = {**os.environ, **quiet, **{name: str(value) for name, value in place.items()}}
        command = [sys.executable, str(script), str(runs), *words]
        printed = runs / f"printed-{rank}"
        processes.append(Ready(command, folder=Path.cwd(), variables=environment, output=printed, errors=printed))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill_all()
            process.wait()
