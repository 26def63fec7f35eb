"""slurm/index.sh on two nodes, stopped while it embeds: it goes on by itself to the index of one undisturbed process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cluster_jobs import Cluster
from PIL import Image
from small_world import World, trained

from tbps.command import main
from tbps.search.index import MANIFEST, read_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("slurm")]

TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1")
PICTURES = 160


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two folders, and so large that a segment takes its time."""
    folder, rng = tmp_path_factory.mktemp("pictures") / "photos", np.random.default_rng(0)
    for number in range(PICTURES):
        file = folder / f"cam_{number % 2}" / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (900, 300, 3), dtype=np.uint8)).save(file, compress_level=1)
    return folder


def stopped_as_it_goes(cluster: Cluster, job: str, index: Path, stop: Callable[[str], None]) -> None:
    """Call `stop` when something is in the index, and not all."""

    def begun() -> bool:
        return (index / MANIFEST).exists() and read_manifest(index).recorded > 0

    cluster.wait_for("the first segment", begun)
    stop(job)
    assert 0 < read_manifest(index).recorded < PICTURES, "it was done before it was stopped"


def test_a_job_that_is_stopped_goes_on_to_the_index_of_one_process(
    cluster: Cluster, world: World, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--run", str(trained(world, "albef")), "--workers", "0")  # it embeds eight pictures at once
    assert main(["index", str(photos), str(tmp_path / "alone"), *words]) == 0
    expected = capsys.readouterr().out.splitlines()[-1]
    log, index = tmp_path / "log", tmp_path / "shared"
    job = cluster.submit(f"--output={log}", *TWO_NODES, "slurm/index.sh", str(photos), str(index), *words)

    stopped_as_it_goes(cluster, job, index, lambda job: cluster.call("scancel", "--signal=USR2", job).check_returncode())

    assert cluster.state_at_end(job) == "COMPLETED", log.read_text()
    said = log.read_text()
    assert cluster.facts(job)["Restarts"] == "1" and cluster.facts(job)["NumNodes"] == "2"
    assert "tbps: stopped as asked" in said and f"job {job} goes back into the queue" in said
    assert f"{PICTURES} pictures of {photos}" in said and said.splitlines()[-1] == expected
    names = sorted(file.name for file in index.iterdir() if file.name not in ("lock", MANIFEST))
    assert all((index / name).read_bytes() == (tmp_path / "alone" / name).read_bytes() for name in names) and len(names) > 6


def test_a_users_mistake_is_one_sentence_and_ends_for_good(cluster: Cluster, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "cam_0", tmp_path / "photos")
    job = cluster.submit(f"--output={tmp_path}/log", *TWO_NODES, "slurm/index.sh", f"{tmp_path}/photos", f"{tmp_path}/index")
    assert cluster.state_at_end(job) == "FAILED"
    said = (tmp_path / "log").read_text()
    assert "is a new index, expected the run whose weights embed its pictures; add --run RUN" in said
    assert "Traceback" not in said, said
    assert cluster.facts(job)["Restarts"] == "0" and cluster.facts(job)["Requeue"] == "0"
