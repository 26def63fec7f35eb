"""Two processes with loader workers where /dev/shm has no room for a batch: the run ends in a sentence."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from small_world import LAUNCH_TWO, World, call


@pytest.mark.slow
def test_two_processes_end_where_shm_is_full(world: World, tmp_path: Path) -> None:
    apart = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=256k none /dev/shm && exec "$@"', "sh")
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace here: it takes root")
    words = [*world.overrides(tmp_path), "--data.workers", "2", "--method.bert.dropout", "0.1", "--loop.timeout-s", "20"]
    done = call(*apart, *LAUNCH_TWO, "recipes/mars.py", "tiny", *words, timeout_s=150)
    assert done.returncode != 0
    assert "mars: /dev/shm, through which loader workers hand over batches, is full (it has 0.2 MiB): make it" in done.stderr
