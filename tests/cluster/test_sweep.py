"""`python -m launch.sweep` on a real Slurm: one array, so many at a time, and safe to repeat."""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path

import pytest
from cluster_jobs import Cluster
from small_world import World

from launch.sweep_points import read_sweep

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("slurm")]

SWEEP = """
from launch.sweep_points import Row, grid

TITLE = "Six points"
ROWS = {"plain": Row("--data.root DATA"), "no MAE": Row("--data.root DATA --method.weights.mae 0")}
POINTS = (
    *grid("recipes/mars.py", "tiny", seeds=(1, 2), rows=ROWS),
    *grid("recipes/rasa.py", "tiny", seeds=(1,), rows={"RaSa": Row("--data.root DATA")}, also_on={"rstpreid": "OTHER"}),
    *grid("recipes/mars.py", "tiny", seeds=(1,), rows={"late": Row("--data.root LATE --optim.lr 1e-3")}),
)
"""


def running(cluster: Cluster) -> int:
    return len(cluster.call("squeue", "--noheader", "--array", "--states=running").stdout.splitlines())


def test_six_points_two_at_a_time_and_again(cluster: Cluster, world: World, tmp_path: Path) -> None:
    late, runs = tmp_path / "late", tmp_path / "runs"
    file = tmp_path / "six.py"
    places = {"DATA": world.cuhk_pedes, "OTHER": world.rstpreid, "LATE": late}
    file.write_text(re.sub("DATA|OTHER|LATE", lambda match: str(places[match[0]]), SWEEP))
    overrides = world.overrides(runs, max_steps=2)
    root = overrides.index("--data.root")
    common = overrides[:root] + overrides[root + 2 :]
    sweep = (sys.executable, "-m", "launch.sweep", str(file), "--cluster", "testbed", "--at-most", "2", *common)

    told = cluster.call(*sweep)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("submitted as ") == 6 and "6 points: 6 pending" in told.stdout
    most = 0

    def ended() -> bool:
        nonlocal most
        most = max(most, running(cluster))
        return not cluster.call("squeue", "--noheader").stdout

    cluster.wait_for("the array ends", ended)
    assert most == 2
    names = {path.parents[1].name for path in runs.glob("*/*/results/final-cuhk-pedes-test.json")}
    assert len(names) == 5
    assert len(list(runs.glob("rasa/*/results/cross-set-rstpreid-test.json"))) == 1
    written = {file: file.stat().st_mtime_ns for file in runs.glob("*/*/*.json*")}

    late.symlink_to(world.cuhk_pedes)  # what was wrong is mended
    told = cluster.call(*sweep)
    assert told.returncode == 0, told.stderr
    assert "6 points: 5 finished, 1 pending" in told.stdout
    assert told.stdout.count("submitted again as ") == 1
    assert len(cluster.call("squeue", "--noheader", "--array").stdout.splitlines()) == 1
    cluster.wait_for("the point ends", lambda: not cluster.call("squeue", "--noheader").stdout)

    told = cluster.call(*sweep)
    assert told.returncode == 0 and "6 points: 6 finished" in told.stdout, told.stdout
    changed = {file.parent.name for file, when in written.items() if file.stat().st_mtime_ns != when}
    (again,) = [one.planned.run.name for one in read_sweep(str(file), common).points if one.point.row == "late"]
    assert changed == {again}, "finished points are not run again"

    results = cluster.call(str(Path(sys.executable).parent / "tbps"), "results", str(runs), "--format", "csv").stdout
    assert [line[:2] for line in list(csv.reader(io.StringIO(results)))[1:]] == [
        ["Six points", "plain"],
        ["Six points", "no MAE"],
        ["Six points", "RaSa"],
        ["Six points", "late"],
        ["runs", "rasa/" + next(path.name for path in runs.glob("rasa/*"))],
    ]
