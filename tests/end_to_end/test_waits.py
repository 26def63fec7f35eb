"""Two processes with loader workers, and no room for a batch, or no more bytes of a server: the run ends in a sentence."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hostile_server import serve, stall
from small_world import LAUNCH_TWO, World, call


@pytest.mark.slow
def test_two_processes_end_where_shm_is_full(world: World, tmp_path: Path) -> None:
    apart = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=256k none /dev/shm && exec "$@"', "sh")
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace here: it takes root")
    words = [*world.overrides(tmp_path), "--data.workers", "2", "--method.bert.dropout", "0.1", "--loop.timeout-s", "20"]
    done = call(*apart, *LAUNCH_TWO, "recipes/mars.py", "tiny", *words, timeout_s=150)
    assert done.returncode != 0
    assert "/dev/shm, through which loader workers hand over batches, is full (it has 0.2 MiB): make it" in done.stderr


@pytest.mark.slow
def test_two_processes_end_where_a_server_stalls(world: World, tmp_path: Path) -> None:
    """One waits for bytes, the other for the first."""
    words = [*world.overrides(tmp_path, recipe="pretrain_mals"), "--data.workers", "1", "--loop.timeout-s", "8"]
    with serve(world.shards) as server:
        server.answers = [stall] * 99
        where = ["--data.root", server.url, "--data.cache", str(tmp_path / "cache/shards")]
        done = call(*LAUNCH_TWO, "recipes/pretrain_mals.py", "tiny", *words, *where, timeout_s=150)
    assert done.returncode != 0
    assert "train-0000.tar: nothing came for 4 s; gave up after " in done.stderr, done.stderr
    assert "trying again in 1.0 s" in done.stderr
