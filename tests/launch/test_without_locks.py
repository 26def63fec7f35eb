"""A file system without locks, met by all that locks: a library, loaded before all others, refuses them below a folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_world import LAUNCH_TWO, REPOSITORY, World, assert_one_sentence, call, environment

from tbps.data.remote import sha256_of

_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int refuses(int file) {
    const char *folder = getenv("NO_LOCKS_BELOW"), *number = getenv("NO_LOCKS_ERRNO");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (!folder || !number || size < 0) return 0;
    path[size] = 0;
    errno = atoi(number);
    return strncmp(path, folder, strlen(folder)) == 0;
}

#define DEFINE(name) \
    int name(int file, int command, ...) { \
        va_list rest; \
        va_start(rest, command); \
        void *argument = va_arg(rest, void *); \
        va_end(rest); \
        int locks = command == F_SETLK || command == F_SETLKW || command == F_GETLK \
                 || command == F_OFD_SETLK || command == F_OFD_SETLKW || command == F_OFD_GETLK; \
        if (locks && refuses(file)) return -1; \
        return ((int (*)(int, int, ...))dlsym(RTLD_NEXT, #name))(file, command, argument); \
    }
DEFINE(fcntl)
DEFINE(fcntl64)

int flock(int file, int operation) {
    if (refuses(file)) return -1;
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(file, operation);
}
"""

_CALL_ALL = """
import contextlib, io, json, os, sys
from launch import status, submit, sweep
from tbps import command
words, sweep_file, runs = json.loads(sys.argv[1])
for number in sys.argv[2:]:
    os.environ["NO_LOCKS_ERRNO"] = number
    told = {}
    for name, function, given in (
        ("submit", submit.main, [*words, "--cluster", "testbed", "--dry-run"]),
        ("status", status.main, [runs]),
        ("sweep", sweep.main, [sweep_file, "--eager", *words[2:], "--data.root", runs + "/nowhere"]),
        ("doctor", command.main, ["doctor", "--runs", runs]),
    ):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            end = function(given)
        told[name] = (end, out.getvalue(), err.getvalue())
    print(json.dumps(told))
"""

_FETCH = """
import sys
from pathlib import Path
from tbps.data.remote import fetch
print(fetch(sys.argv[1], cache=Path(sys.argv[2]), sha256=sys.argv[3], num_bytes=int(sys.argv[4])))
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (compiler := shutil.which("gcc") or shutil.which("cc")) is None:
        pytest.skip("no C compiler: apt-get install gcc")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(_SHIM)
    words = [compiler, "-shared", "-fPIC", "-o", str(folder / "shim.so"), str(folder / "shim.c"), "-ldl"]
    subprocess.run(words, check=True)
    return folder / "shim.so"


def no_locks(shim: Path, below: Path) -> dict[str, str]:
    """The environment of a process there."""
    return {"LD_PRELOAD": str(shim), "NO_LOCKS_BELOW": str(below), "NO_LOCKS_ERRNO": str(errno.ENOSYS)}


def test_every_command_names_it_and_the_remedy(shim: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (runs / "mars/tiny").mkdir(parents=True)
    (runs / "mars/tiny/lock").write_text("process 1 on elsewhere\n")
    (runs / "mars/tiny/job.json").write_text(json.dumps({"job": "", "logs": str(runs), "arguments": []}))
    sweep = tmp_path / "small.py"
    sweep.write_text(
        "from launch.sweep_points import Row, grid\n"
        'POINTS = grid("recipes/mars.py", "tiny", seeds=(1,), rows={"a": Row()})\n'
    )
    words = ["recipes/mars.py", "tiny", "--runs", str(runs)]
    given = json.dumps([words, str(sweep), str(runs)])
    numbers = [str(number) for number in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)]
    changes = {**no_locks(shim, tmp_path), "PATH": str(tmp_path / "nothing")}
    done = call(sys.executable, "-c", _CALL_ALL, given, *numbers, **changes)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(numbers)
    for line in done.stdout.splitlines():
        check_told(json.loads(line), runs)


def check_told(told: dict[str, tuple[int, str, str]], runs: Path) -> None:
    """Of each command: exit status, output, errors."""
    remedy = "mount it with locks (Lustre: -o flock, NFS: without nolock), choose another disk with --runs, or set"
    for name in ("submit", "sweep"):
        assert told[name][0] == 2
        assert_one_sentence(told[name][2], f"launch.{name}: the file system of ", " has no locks, so nothing would", remedy)
    assert told["status"][0] == 0 and "failed" in told["status"][1]  # what is running, the queue says
    (bad,) = [line for line in told["doctor"][1].splitlines() if line.startswith("BAD")]
    assert told["doctor"][0] == 1 and f"the file system of {runs} has no locks" in bad and remedy in bad


@pytest.mark.slow
def test_two_processes_train_there_when_the_user_sees_to_it(shim: Path, world: World, tmp_path: Path) -> None:
    more = ["--data.workers", "1", "--method.bert.dropout", "0.1", "--evaluation.test", "False"]
    words = ["recipes/mars.py", "tiny", *world.overrides(tmp_path, max_steps=2), *more]
    refused = call(sys.executable, *words, **no_locks(shim, tmp_path))
    assert refused.returncode == 2
    assert_one_sentence(
        refused.stderr.splitlines()[-1],
        f"mars: the file system of {tmp_path}/mars/tiny has no locks",
        "set TBPS_WITHOUT_LOCKS=1 where you",
    )
    allowed = call(*LAUNCH_TWO, *words, **no_locks(shim, tmp_path), TBPS_WITHOUT_LOCKS="1")
    assert allowed.returncode == 0, allowed.stderr
    assert f"{tmp_path}/mars/tiny has no locks: as TBPS_WITHOUT_LOCKS says" in allowed.stderr


def test_where_there_are_locks_they_are_used_whatever_the_user_says(tmp_path: Path) -> None:
    hold = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); print(); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline()
    take = "import sys; from tbps.data.file_lock import take; print(take(open(sys.argv[1], 'a+')))"
    try:
        assert call(sys.executable, "-c", take, str(tmp_path / "lock"), TBPS_WITHOUT_LOCKS="1").stdout == "False\n"
    finally:
        holder.communicate()


def test_downloads_take_turns_without_locks(shim: Path, tmp_path: Path) -> None:
    served, cache = tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    (served / "shard").write_bytes(os.urandom(1 << 22))
    server = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(served)]
    with subprocess.Popen(server, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None and serving.stderr is not None
        port = serving.stdout.readline().partition(" port ")[2].split()[0]
        digest, size = sha256_of(served / "shard"), str(1 << 22)
        words = [sys.executable, "-c", _FETCH, f"http://127.0.0.1:{port}/shard", str(cache), digest, size]
        asking = {**environment(**no_locks(shim, cache)), "TMPDIR": str(tmp_path)}
        each = [subprocess.Popen(words, cwd=REPOSITORY, env=asking, stdout=subprocess.PIPE) for _ in range(3)]
        fetched = {process.communicate(timeout=60)[0].decode().strip() for process in each}
        serving.terminate()
        asked = serving.stderr.read()
    assert fetched == {str(cache / digest[:2] / digest)}
    assert sha256_of(cache / digest[:2] / digest) == digest and not list(cache.glob("*/*.partial*"))
    assert asked.count("GET /shard") == 1, "two of them found it"
