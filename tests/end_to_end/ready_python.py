"""Python processes that begin with PyTorch and a run's other modules imported: four seconds of every start of a recipe.

Each is a fork of one process that has imported and done nothing else. From there on it does what `python <words>` does;
torchrun is the real one, but that its ranks are forks too. What they do not have is a hash seed of their own each, nor an
import that could fail: Slurm's jobs, a kill of each launcher and README's commands that run are started in the ordinary way.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NoReturn

_CONTEXT = multiprocessing.get_context("forkserver")
_LAUNCHERS = ("torch.distributed.run", "accelerate.commands.launch")
"""The second calls the first, unless it starts one process only."""
_READ_AT_START = ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONHASHSEED", "PYTHONWARNINGS", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
"""What an interpreter, a loader of libraries or an import reads: only a process of its own can be given other values."""
_READY = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""What they have been given."""
_WHILE_IMPORTING = {
    **_READY,
    "DS_ACCELERATOR": "cpu",
    "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)]),
}
"""Where it finds `ready_imports`; DeepSpeed chooses its device when it is imported."""
_IMPORTING = threading.Lock()


def can_be_ready(words: Sequence[str], variables: Mapping[str, str]) -> bool:
    """Whether such a command can be one: Python with a script or module, in an environment that asks for nothing early."""
    changed = (name for name in _READ_AT_START if variables.get(name) != _READY.get(name, os.environ.get(name)))
    return words[0] == sys.executable and words[1] != "-c" and not any(changed)


def run(
    words: Sequence[str], *, folder: Path, variables: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """`<words>` in `folder` with the environment `variables`, and its output. TimeoutExpired after `timeout_s` seconds."""
    with tempfile.TemporaryDirectory() as place:
        output, errors = Path(place) / "output", Path(place) / "errors"
        process = Ready(words, folder=folder, variables=variables, output=output, errors=errors)
        try:
            process.wait(timeout_s)
        finally:
            process.kill_all()
        return subprocess.CompletedProcess(words, process.wait(), output.read_text(), errors.read_text())


class Ready:
    """What subprocess.Popen is of a process. Its output is appended to files."""

    def __init__(
        self, words: Sequence[str], *, folder: Path, variables: Mapping[str, str], output: Path, errors: Path
    ) -> None:
        for file in (output, errors):
            file.touch()
        self.words, self.files = words, (output, errors)
        self._process: ForkServerProcess = fork_of_imports(
            _become, list(words[1:]), str(folder), dict(variables), str(output), str(errors)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it lives."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status. TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.words, timeout, *(file.read_bytes() for file in self.files))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill_all(self) -> None:
        """SIGKILL for it and all that write to its output, which is everything that it has started."""
        self.kill()
        kill_writers(*self.files)


def kill_writers(*files: Path) -> None:
    """SIGKILL for every process whose output goes there."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if {(process / "fd/1").readlink(), (process / "fd/2").readlink()} & set(files):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue  # it has ended, or belongs to somebody else


def fork_of_imports(target: Callable[..., object], *args: object) -> ForkServerProcess:
    """A process that has them and will call `target`; not started yet."""
    _import_first()
    return _CONTEXT.Process(target=target, args=args)


def _import_first() -> None:
    """Start the process that imports, unless there is one."""
    with _IMPORTING:
        before = {name: os.environ.get(name) for name in _WHILE_IMPORTING}
        os.environ.update(_WHILE_IMPORTING)
        try:
            _CONTEXT.set_forkserver_preload(["ready_imports"])
            forkserver.ensure_running()
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                os.environ.update({} if value is None else {name: value})


def _become(words: list[str], folder: str, variables: dict[str, str], output: str, errors: str) -> NoReturn:
    os.setsid()  # a group of its own, loader workers included
    os.chdir(folder)
    for descriptor, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), descriptor)
    multiprocessing.set_start_method(None, force=True)  # what it is in a shell
    _execute(words, variables)


def _execute(words: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    """As an interpreter does, from its command line to its end."""
    words = [word for number, word in enumerate(words) if number or word != "-u"]
    os.environ.clear()
    os.environ.update(variables)
    random.seed()
    is_module = words[0] == "-m"
    installed = [place for place in sys.path if place.startswith((sys.prefix, sys.base_prefix))]
    asked = [place for place in variables.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:] = [os.getcwd() if is_module else str(Path(words[0]).resolve().parent), *asked, *installed]
    sys.argv = list(words[1:] if is_module else words)
    status: object = 0
    try:
        if is_module:
            if words[1] in _LAUNCHERS:
                _let_ranks_be_forks()
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int):
        sys.stderr.write(f"{status}\n")
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _let_ranks_be_forks() -> None:
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess_handler.Popen = _Fork  # type: ignore[assignment, misc]


class _Fork:
    """A rank, as torchrun starts it: what subprocess.Popen is, but that the new process has torchrun's imports."""

    def __init__(
        self, args: Sequence[str], env: Mapping[str, str], stdout: None, stderr: None, *, start_new_session: bool
    ) -> None:
        assert args[0] == sys.executable and stdout is stderr is None and start_new_session
        self.args = args
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _leave_launcher()
            _execute(args[1:], env)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.02)
        assert self.returncode is not None
        return self.returncode


def _leave_launcher() -> None:
    """Keep nothing of it but its output and what it has open, which nobody uses: not who hears signals, nor who logs."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
