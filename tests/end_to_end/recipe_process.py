"""The command of a recipe in a process of its own that can be killed with all its loader workers."""

from __future__ import annotations

import contextlib
import os
import resource
import runpy
import signal
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from ready_python import fork_of_imports
from small_world import REPOSITORY


def _run(recipe: str, arguments: list[str], log: str, largest_file: int) -> None:
    os.setsid()  # a group of its own, so that the loader workers are killed with it
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ["OMP_NUM_THREADS"] = "1"
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = [f"recipes/{recipe}.py", *arguments]
    runpy.run_path(str(REPOSITORY / sys.argv[0]), run_name="__main__")


def start(arguments: list[str], log: Path, *, recipe: str = "mars", largest_file: int = 0) -> ForkServerProcess:
    """`python recipes/<recipe>.py <arguments>`; prints are appended to `log`. largest_file: bytes, as on a full disk."""
    process = fork_of_imports(_run, recipe, arguments, str(log), largest_file)
    process.start()
    return process


def kill_group(process: ForkServerProcess) -> bool:
    """SIGKILL for the process and its workers; False where it had ended already."""
    was_alive = process.is_alive()
    assert process.pid is not None
    # Before its own group exists, only the process itself can be meant.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    return was_alive and process.exitcode == -signal.SIGKILL


def finish(arguments: list[str], log: Path, *, recipe: str = "mars", largest_file: int = 0) -> int | None:
    """Run to the end; the exit status."""
    process = start(arguments, log, recipe=recipe, largest_file=largest_file)
    process.join(120)
    return process.exitcode
