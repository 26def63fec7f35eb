"""A real Slurm on one machine, to try jobs before a cluster sees them: `python -m launch.testbed start|stop|status`.

Four nodes of four GPUs that are only counted, partition `main` (default) and partition `urgent`, whose jobs preempt those of
`main`. Its daemons run as the user who calls this, with keys, ports and files of their own below one folder: nothing of the
system is changed, a Slurm that is already there is left alone, and nothing is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launch import testbed_accounting as accounting
from launch.slurm_conf import NODES, free_ports, is_taken, write_conf

logger = logging.getLogger(__name__)

DEFAULT_FOLDER = Path("~/.cache/tbps/testbed")
PACKAGES = "slurm-wlm munge"
"""Debian and Ubuntu packages that it needs."""

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "squeue", "scancel")
_LONGEST_FOLDER = 80  # a socket's path may have 107 characters
_WAIT_S = 30.0
_SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
"""Daemons lie where plain users do not look."""


class Testbed:
    """The daemons of one folder."""

    __test__ = False  # not a test class, whatever its name begins with

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        self.conf = self.folder / "slurm.conf"

    def environment(self) -> dict[str, str]:
        """What a shell needs: which Slurm to talk to, and that its jobs train on the CPU, for its GPUs are only counted."""
        return {"SLURM_CONF": str(self.conf), "ACCELERATE_USE_CPU": "true"}

    def start(self) -> None:
        """Start what does not run, and wait until all nodes can take jobs. ValueError says what is missing."""
        _check_installed()
        _check_folder(self.folder)
        for name in ("", "state", *NODES):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o755)
        if not any(self.daemons().values()):
            self._write_key()
            self._write_conf()
        for name, pid in self.daemons().items():
            if pid is None:
                self.start_daemon(name)
        self._wait_for_nodes()

    def start_daemon(self, name: str) -> None:
        """One of `daemons()`; a node's slurmd has the node's name."""
        log = self.folder / f"{name}.log"
        if name == "mariadbd":
            accounting.start_database(self.folder, {program: _which(program) for program in accounting.PROGRAMS})
        else:
            words, environment = self._command(name), self._clean_environment()
            done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr + done.stdout).strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
                raise ValueError(f"{name} does not start ({reason[0]}); see {log}")
        _wait_until(lambda: self.daemons()[name] is not None, f"{name} does not start; see {log}")

    def stop_daemon(self, name: str, *, number: int = signal.SIGTERM) -> None:
        """End one daemon and wait for it; what a node's slurmd has started lives on."""
        pid = self.daemons()[name]
        if pid is not None:
            os.kill(pid, number)
            _wait_until(lambda: self.daemons()[name] is None, f"{name} (process {pid}) does not end; kill it")

    def stop(self) -> None:
        """Cancel every job, end every daemon and whatever a job left behind."""
        if self.daemons()["slurmctld"] is not None:
            self._run("scancel", "--full", "--user", str(os.getuid()))
            with contextlib.suppress(ValueError):  # what does not end by itself is killed below
                _wait_until(lambda: not self._run("squeue", "--noheader"), "jobs do not end", wait_s=10)
        for name in reversed(self.daemons()):
            self.stop_daemon(name, number=signal.SIGKILL if name in NODES else signal.SIGTERM)
        _wait_until(lambda: not _kill_what_jobs_left(self.conf), "what jobs started does not end; look at ps")

    def daemons(self) -> dict[str, int | None]:
        """Process of each daemon, in the order of starting; None = not running."""
        names = ("munged", *(("mariadbd", "slurmdbd") if (self.folder / "slurmdbd.conf").exists() else ()), "slurmctld")
        programs = {**{name: name for name in names}, **dict.fromkeys(NODES, "slurmd")}
        return {name: _running(self.folder / f"{name}.pid", program) for name, program in programs.items()}

    def status(self) -> str:
        """Daemons and `sinfo`, to read."""
        lines = [f"{name:10} {f'process {pid}' if pid else 'not running'}" for name, pid in self.daemons().items()]
        if self.daemons()["slurmctld"] is not None:
            lines += ["", self._run("sinfo", "--Node", "--format=%N %.8P %.6t %c CPUs %G").rstrip()]
        return "\n".join(lines) + "\n"

    def _command(self, name: str) -> list[str]:
        if name == "munged":
            files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
            options = [f"--{option}={self.folder / file}" for option, file in files.items()]
            # --force: the folder may lie below one that others can write to, such as /tmp.
            return [_which("munged"), "--force", f"--seed-file={self.folder / 'munge.seed'}", *options]
        if name == "slurmdbd":
            return [_which("slurmdbd")]  # finds its conf beside slurm.conf
        if name == "slurmctld":
            return [_which("slurmctld"), "-f", str(self.conf)]
        return [_which("slurmd"), "-f", str(self.conf), "-N", name]

    def _clean_environment(self) -> dict[str, str]:
        """Jobs must not inherit what the shell of another job or Slurm has set."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
        return {**kept, **self.environment(), **accounting.environment(self.folder)}

    def _run(self, *words: str) -> str:
        done = subprocess.run(words, env=self._clean_environment(), capture_output=True, text=True, check=False)
        return done.stdout

    def _write_conf(self) -> None:
        """With accounting where it can be had soon, else without, and say so."""
        ports = free_ports(2 + len(NODES))
        (self.folder / "slurmdbd.conf").unlink(missing_ok=True)
        missing = [program for program in accounting.PROGRAMS if shutil.which(program, path=_SEARCH_PATH) is None]
        reason = f"{', '.join(missing)} not found, apt-get install {accounting.PACKAGES}"
        if not missing:
            write_conf(self.folder, ports[1:], accounting=accounting.conf_lines(self.folder, port=ports[0]))
            try:
                for name in ("munged", "mariadbd", "slurmdbd"):
                    self.start_daemon(name)
                _wait_until(lambda: is_taken(ports[0]), f"slurmdbd does not answer; see {self.folder}/slurmdbd.log")
            except (ValueError, OSError, subprocess.CalledProcessError) as error:
                reason = str(error)
                for name in ("slurmdbd", "mariadbd"):
                    self.stop_daemon(name)
                (self.folder / "slurmdbd.conf").unlink()
            else:
                return
        logger.info("without accounting, so sacct does not know jobs that have ended (%s)", reason)
        write_conf(self.folder, ports[1:], accounting=accounting.OFF)

    def _write_key(self) -> None:
        key = self.folder / "munge.key"
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

    def _wait_for_nodes(self) -> None:
        def all_up() -> bool:
            states = self._run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%t").split()
            if any(state.startswith(("drain", "drng", "down")) for state in states):  # remembered from an earlier life
                self._run("scontrol", "update", f"NodeName={','.join(NODES)}", "State=RESUME")
            return len(states) == len(NODES) and all(state in ("idle", "mix", "alloc", "comp") for state in states)

        _wait_until(all_up, f"not all nodes came up; see the .log files in {self.folder}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="launch.testbed", description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("start", "stop", "status"))
    parser.add_argument(
        "--folder", type=Path, default=DEFAULT_FOLDER, help=f"where its files lie (default {DEFAULT_FOLDER})"
    )
    given = parser.parse_args(arguments)
    testbed = Testbed(given.folder)
    try:
        if given.action == "start":
            testbed.start()
            logger.info("Slurm runs; put the next lines into the shell, then try: sinfo, sbatch, squeue")
            sys.stdout.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in testbed.environment().items())
        elif given.action == "stop":
            testbed.stop()
        else:
            sys.stdout.write(testbed.status())
    except ValueError as error:
        sys.stderr.write(f"launch.testbed: {error}\n")
        return 2
    return 0


def missing_programs() -> list[str]:
    """Programs that the testbed needs and this machine lacks."""
    return [program for program in _PROGRAMS if shutil.which(program, path=_SEARCH_PATH) is None]


def _check_installed() -> None:
    if missing := missing_programs():
        raise ValueError(f"{', '.join(missing)} not found; on Debian or Ubuntu: apt-get install {PACKAGES}")


def _check_folder(folder: Path) -> None:
    if not str(folder).isascii() or any(letter in " \t\n\"'#,=%" for letter in str(folder)):
        raise ValueError(f"folder {folder} has a character that slurm.conf cannot hold; give another one with --folder")
    if len(str(folder)) > _LONGEST_FOLDER:
        raise ValueError(
            f"folder {folder} has {len(str(folder))} characters, expected at most {_LONGEST_FOLDER} (it holds sockets);"
            " give a shorter one with --folder"
        )


def _which(program: str) -> str:
    found = shutil.which(program, path=_SEARCH_PATH)
    assert found is not None, "checked before"
    return found


def _running(pid_file: Path, program: str) -> int | None:
    """The process of a pid file, if it is alive and still that program."""
    try:
        pid = int(pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        is_zombie = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, ValueError):
        return None
    return pid if Path(command.decode()).name == program and not is_zombie else None


def _kill_what_jobs_left(conf: Path) -> bool:
    """SIGKILL for all that jobs of this Slurm have started, and for what watches it; whether there was any."""
    found = False
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (process / "environ").read_bytes().split(b"\0")
            is_job = any(entry.startswith(b"SLURM_JOB_ID=") for entry in environment)
            if f"SLURM_CONF={conf}".encode() not in environment:  # a zombie has none
                continue
            if is_job or (process / "cmdline").read_bytes().startswith(b"slurmstepd"):
                os.kill(int(process.name), signal.SIGKILL)
                found = True
    return found


def _wait_until(condition: Callable[[], bool], otherwise: str, *, wait_s: float = _WAIT_S) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > deadline:
            raise ValueError(otherwise)
        time.sleep(0.1)


if __name__ == "__main__":
    raise SystemExit(main())
