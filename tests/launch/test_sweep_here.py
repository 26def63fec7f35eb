"""Sweeps without Slurm: points and their names, what is done about each, and running them here."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from small_world import REPOSITORY, World, assert_one_sentence

from launch.failure import read_failure
from launch.job_record import JobRecord, read_record, write_record
from launch.planned_run import plan_run
from launch.site import Site
from launch.slurm import Queued
from launch.sweep import main, plan_points, smaller_micro_batch
from launch.sweep_points import PlannedPoint, Sweep, name_of, read_sweep
from tbps.reporting.published import PUBLISHED
from tbps.reporting.table_rows import TableRow, read_rows, write_row

SWEEPS = sorted((REPOSITORY / "launch/sweeps").glob("[!_]*.py"))
NUM_ROWS = {
    "mars_table2": 11,
    "mars_table3": 5,
    "mars_table4": 5,
    "aga_table1": 4,
    "aga_table3": 4,
    "aga_table4": 3,
    "aga_table5": 4,
    "aga_table6": 3,
    "aga_table7": 4,
    "aga_table8": 3,
    "laip_table4": 8,
    "laip_table5": 3,
    "laip_table6": 4,
    "lora": 10,
    "bilma_table2": 12,
    "bilma_grid": 27,
    "bilma_targets": 4,
    "bamg_table2": 12,
    "bamg_table3": 2,
    "bamg_fig3": 16,
}
NO_FIGURES = {"alpha_1 -0.05", "alpha_1 0", "alpha_1 0.1", "Random", "pixels", "mean colour", "feature"}
"""Rows of AGA's Table VII, whose figures are a slip, of its Table I, whose figures are RaSa's, and of BiLMa's supplement."""
NO_PAPER = ("lora", "bilma_grid")
"""Sweeps of which no paper reports a row."""
GRID = [f"alpha {alpha}, beta {beta}" for alpha in (0.5, 1.0, 1.5, 2.0) for beta in (0.5, 1.0, 1.5, 2.0)]
DRAWN = set(GRID) - {"alpha 1.5, beta 1.0"}
"""Points of BAMG's Fig. 3, of which the paper prints no figures but those of its own setting."""
Shipped = Callable[[str], Sweep]
HEAD = "from launch.sweep_points import Row, grid\n"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are named as in the README."""
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    """Reads a shipped sweep by its name, each once."""
    return cache(lambda name: read_sweep(f"launch/sweeps/{name}.py"))


def write_sweep(folder: Path, rows: str, *, seeds: str = "(1,)", more: str = "") -> str:
    """A sweep of MARS tiny with these rows."""
    file = folder / "small.py"
    file.write_text(f'{HEAD}TITLE = "Small"\nPOINTS = grid("recipes/mars.py", "tiny", seeds={seeds}, rows={rows}{more})\n')
    return str(file)


# -- points --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_shipped_sweep_is_read(file: Path, shipped: Shipped) -> None:
    sweep = shipped(file.stem)
    assert {one.point.seed for one in sweep.points} == {42, 43, 44}
    for one in sweep.points:
        figures = one.table_row.published
        unpublished = one.point.row in NO_FIGURES or file.stem in NO_PAPER or one.point.row in DRAWN
        assert (not figures) == unpublished
        ranked = [figures[name] for name in ("mAP", "rank_1", "rank_5", "rank_10") if name in figures]
        assert all(0 < one < other < 100 for one, other in itertools.pairwise(ranked))
    assert len({one.point.row for one in sweep.points}) == NUM_ROWS[file.stem]


def folders_of(sweep: Sweep) -> dict[str, set[str]]:
    """Row -> run folders."""
    found: dict[str, set[str]] = {}
    for one in sweep.points:
        found.setdefault(one.point.row, set()).add(str(one.planned.folder.path))
    return found


def test_a_row_of_a_table_bears_no_figure_of_another_system(shipped: Shipped) -> None:
    """AGA's Table I prints RaSa's published figures, of another augmentation, as its own row "Random"."""
    rasa = next(figure for figure in PUBLISHED if (figure.system, figure.benchmark) == ("RaSa", "cuhk-pedes"))
    shown = {
        (one.point.recipe, one.table_row.row)
        for file in SWEEPS
        for one in shipped(file.stem).points
        if one.table_row.published.get("rank_1") == rasa.rank_1 and one.table_row.published.get("mAP") == rasa.mAP
    }
    assert shown == {("recipes/rasa.py", "Baseline (RaSa)")}


def test_a_configuration_in_several_tables_is_trained_once(shipped: Shipped) -> None:
    def runs_of(name: str) -> dict[str, set[str]]:
        return folders_of(shipped(name))

    two, three, four = runs_of("mars_table2"), runs_of("mars_table3"), runs_of("mars_table4")
    for row in ("A4: MAE, AL", "A5: MAE, Full CA", "A6: AL, Full CA"):
        assert two[row] == three[row]
    assert two["Baseline with 70 words"] == three["RaSa"]
    assert two["MARS (Ours)"] == three["MARS"] == four["MARS: attribute x 2, MAE x 1"]
    assert len(set().union(*two.values())) == 33
    aga = runs_of("aga_table3")["AGM+TEM (AGA)"]
    others = {"aga_table4": "Ema", "aga_table5": "p_tem 0.3", "aga_table6": "k 5", "aga_table8": "beta 0.95"}
    assert len(aga) == 3 and all(runs_of(name)[row] == aga for name, row in others.items())
    assert runs_of("aga_table1")["AGM"] == runs_of("aga_table3")["AGM"]
    bilma = runs_of("bilma_table2")
    assert bilma["cuhk-pedes: MLM, SemMIM (BiLMa)"] == runs_of("bilma_targets")["label (BiLMa)"]
    assert bilma["rstpreid: MLM, SemMIM (BiLMa)"] == runs_of("bilma_grid")["rstpreid: m_p 0.15, beta 1.0"]
    laip = [runs_of(f"laip_table{number}") for number in (4, 5, 6)]
    assert laip[0]["8: LAIP"] == laip[1]["LAIP (MPM)"] == laip[2]["LAIP+"] and len(set().union(*laip[0].values())) == 24
    bamg = runs_of("bamg_table2")
    assert runs_of("bamg_table3")["Bottleneck Transformer"] == bamg["BF, cuhk-pedes"]
    assert runs_of("bamg_fig3")["alpha 1.5, beta 1.0"] == bamg["BF, MGM, MLM, cuhk-pedes"]


def test_a_name_tells_what_changed_and_nothing_else() -> None:
    def name(*words: str) -> str:
        planned, default = plan_run("recipes/mars.py", "tiny", words), plan_run("recipes/mars.py", "tiny", ())
        return name_of(planned.run, default.run, variant="tiny")

    plain = name("--loop.seed", "3", "--method.weights.mae", "0")
    assert plain.startswith("tiny,mae=0.0,seed=3-")
    # spelled otherwise, and with settings of the place
    assert name("--method.weights.mae=0.0", "--loop.seed=3", "--data.workers", "7", "--runs", "elsewhere") == plain
    digests = {name(*words)[-8:] for words in ((), ("--loop.seed", "3"), ("--data.captioning.vocabulary", "/a/b.txt"))}
    assert len(digests) == 3
    assert "/" not in name("--data.captioning.vocabulary", "/a/b.txt"), "a name is one folder"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ('{"a": Row("--loop.log-steps 5"), "b": Row()}', "rows 'a' (seed 1) and 'b' (seed 1) are the same run; remove one"),
        ('{"a": Row("--name x")}', "row 'a' sets --name; a sweep names its runs itself"),
        ('{"a": Row(published=(1.0,))}', "published figures are (1.0,), expected rank_1, rank_5, rank_10, mAP or none"),
        ("{}", "has no POINTS; expected a list of launch.sweep_points.Point"),
        ('{"a": Row("--data.batch-pairs 48")}', "row 'a': world size 2 does not divide the 3 groups of a batch"),
        ('{"a": Row("--loop.sed 3")}', "(perhaps --loop.seed)"),
    ],
)
def test_a_wrong_sweep_is_one_sentence(rows: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [write_sweep(tmp_path, rows), "--eager", "--gpus-per-node", "2", "--runs", str(tmp_path / "runs")]
    try:
        exit_status: object = main(words)
    except SystemExit as end:
        exit_status = end.code
    assert exit_status == 2
    assert_one_sentence(capsys.readouterr().err, sentence)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ("(1, -1)", "row 'a': loop.seed is -1, expected"),
        ('(1, "x")', "row 'a' has seed 'x', expected a whole number"),
    ],
)
def test_a_wrong_seed_beside_a_good_one_is_one_sentence(
    seeds: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([write_sweep(tmp_path, '{"a": Row()}', seeds=seeds), "--eager", "--runs", str(tmp_path / "runs")]) == 2
    assert_one_sentence(capsys.readouterr().err, sentence)
    assert not (tmp_path / "runs").exists()


def test_options_that_mean_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = write_sweep(tmp_path, '{"a": Row()}')
    for words, sentence in (
        (["--eager", "--partition", "main"], "--eager runs here, where --partition means nothing"),
        (["--eager", "--at-most", "-1"], "--at-most is -1"),
    ):
        assert main([sweep, *words]) == 2
        assert_one_sentence(capsys.readouterr().err, sentence)
    assert main([str(tmp_path / "none.py"), "--eager"]) == 2
    assert_one_sentence(capsys.readouterr().err, "none.py' is not there, expected a Python file such as")


# -- what is done about a point ------------------------------------------------------------------------------------------


def planned_point(tmp_path: Path) -> PlannedPoint:
    return read_sweep(write_sweep(tmp_path, '{"a": Row("--data.batch-pairs 64")}'), ["--runs", str(tmp_path)]).points[0]


def attempt(one: PlannedPoint, text: str, *, micro_batch_pairs: int = 0) -> None:
    """An attempt here that has ended with this output."""
    logs = one.planned.folder.path / "jobs"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "here.log").write_text(text)
    record = JobRecord(job="", logs=str(logs), arguments=one.planned.arguments, micro_batch_pairs=micro_batch_pairs)
    write_record(one.planned.folder.path, record)


OUT_OF_MEMORY = "step 3\nTraceback ...\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n"


def decide(one: PlannedPoint) -> tuple[str, bool, int, str]:
    sweep = Sweep(name="small", title="Small", points=(one,))
    (standing,) = plan_points(sweep, {}, Site())
    return standing.state.kind, standing.is_due, standing.micro_batch_pairs, standing.note


def test_what_is_done_about_a_point(tmp_path: Path) -> None:
    one = planned_point(tmp_path)
    assert decide(one) == ("new", True, 0, "")
    attempt(one, "mars: data/x is not a folder; give one\n\nsrun: error: n0: task 0: Exited with exit code 2\n")
    assert decide(one) == ("failed", True, 0, "mars: data/x is not a folder; give one")
    attempt(one, OUT_OF_MEMORY)
    memory = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    assert decide(one) == ("failed", True, 32, memory)  # 4 groups of 16 become 2
    attempt(one, OUT_OF_MEMORY, micro_batch_pairs=32)
    assert decide(one) == ("failed", False, 32, f"out of memory, also with micro-batches of 32 pairs: {memory}")
    attempt(one, "mars: the disk is full\n", micro_batch_pairs=32)
    assert decide(one) == ("failed", True, 32, "mars: the disk is full")
    # after the user has changed how the point is run, what was learnt about memory is old
    other = replace(one, planned=replace(one.planned, overrides=(*one.planned.overrides, "--data.workers", "0")))
    assert decide(other)[1:3] == (True, 0)


def test_a_damaged_folder_keeps_no_other_point_from_running(tmp_path: Path) -> None:
    words = ["--runs", str(tmp_path / "runs")]
    sweep = read_sweep(
        write_sweep(tmp_path, '{"a": Row("--optim.lr 1e-3"), "b": Row(), "c": Row("--optim.lr 1e-2")}'), words
    )
    for one, file in zip(sweep.points, ("config.json", "job.json"), strict=False):
        one.planned.folder.path.mkdir(parents=True)
        (one.planned.folder.path / file).write_text("{")
        one.planned.folder.metrics.write_text('{"step": 1}\n')
    a, b, c = plan_points(sweep, {}, Site())
    assert (a.state.kind, a.is_due) == ("failed", False) and "config.json cannot be read" in a.note
    assert (b.state.kind, b.is_due) == ("unreadable", False) and "job.json cannot be read" in b.note
    assert (c.state.kind, c.is_due) == ("new", True)


def test_points_of_a_queue_are_left_alone(tmp_path: Path) -> None:
    one = planned_point(tmp_path)
    write_record(one.planned.folder.path, JobRecord(job="9_0", logs="", arguments=one.planned.arguments))
    sweep = Sweep(name="small", title="Small", points=(one,))
    for state, kind in (("pending", "pending"), ("running", "running"), ("completing", "running")):
        (standing,) = plan_points(sweep, {"9_0": Queued(state=state, reason="")}, Site())
        assert (standing.state.kind, standing.is_due) == (kind, False)
    (standing,) = plan_points(sweep, None, Site())
    assert (standing.state.kind, standing.is_due) == ("unknown", False)


def test_a_smaller_micro_batch_keeps_whole_groups() -> None:
    data = plan_run("recipes/mars.py", "tiny", ("--data.batch-pairs", "192")).run.data  # groups of 16
    assert smaller_micro_batch(data, 1) == 96
    assert smaller_micro_batch(data, 2) == 48
    assert smaller_micro_batch(data, 4) == 16  # 3 groups cannot be halved
    assert smaller_micro_batch(data, 12) == 0
    assert smaller_micro_batch(replace(data, micro_batch_pairs=64), 1) == 32
    assert smaller_micro_batch(replace(data, micro_batch_pairs=144), 1) == 48  # 9 groups by threes


@pytest.mark.parametrize(
    ("text", "cause", "of_memory"),
    [
        (OUT_OF_MEMORY, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", True),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory\n", "RuntimeError: DefaultCPUAllocator: can't", True),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in step 4.0\n", "slurmstepd: error: Detected 1 oom-kill", True),
        ("MemoryError\n", "MemoryError", True),
        ("mars: stopped\nsubmitit ERROR (x) - Submitted job triggered an exception\n", "mars: stopped", False),
        ("", "nothing was logged", False),
    ],
)
def test_causes_are_read_from_the_log(text: str, cause: str, of_memory: bool, tmp_path: Path) -> None:
    (tmp_path / "12_3_0_log.err").write_text(text)
    failure = read_failure(JobRecord(job="12_3", logs=str(tmp_path), arguments=()))
    assert failure.cause.startswith(cause)
    assert failure.of_memory == of_memory


def test_the_first_rank_that_speaks_is_heard_and_slurm_knows_the_rest(tmp_path: Path) -> None:
    for rank, text in ((0, "srun: error: x\n"), (2, "from rank 2\n"), (10, "from rank 10\n")):
        (tmp_path / f"5_{rank}_log.err").write_text(text)
    record = JobRecord(job="5", logs=str(tmp_path), arguments=())
    assert read_failure(record).cause == "from rank 2"
    assert read_failure(record, ended_as="timeout").cause == "timeout: from rank 2"
    assert read_failure(record, ended_as="out_of_memory").of_memory


# -- here ----------------------------------------------------------------------------------------------------------------

GOOD = '"good": Row("--optim.lr 1e-3", published=(70.0, 80.0, 90.0, 60.0))'
BAD = '"bad": Row("--method.temperature 1e-38")'


@pytest.mark.slow
def test_a_sweep_here_retries_only_what_failed(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    common = world.overrides(tmp_path / "runs", max_steps=2)
    root = common.index("--data.root")
    rows = f"{{{GOOD}, {BAD}}}"
    sweep = write_sweep(tmp_path, rows)
    words = [sweep, "--eager", *common]
    missing = [*common[: root + 1], str(tmp_path / "later"), *common[root + 2 :]]
    # everything fails as long as the data are not there
    assert main([sweep, "--eager", *missing]) == 1
    told = capsys.readouterr().out
    assert told.count("mars: data.root") == 2 and "2 points: 2 failed" in told
    assert main(words) == 1
    told = capsys.readouterr().out
    assert "2 points: 1 finished, 1 failed" in told and "in step 1 (pairs" in told
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("mars/*/metrics.jsonl")}
    assert len(finished) == 2
    assert main(words) == 1
    told = capsys.readouterr().out
    assert "bad, seed 1 ..." in told and "good, seed 1 ..." not in told
    changed = [path for path, when in finished.items() if path.stat().st_mtime_ns != when]
    assert all("temperature=1e-38" in str(path) for path in changed)


HUNGRY = """
import sys
import torch
from recipes.mars import tiny
from tbps.recipe_command import recipe_command
VARIANTS = {"tiny": tiny}
if __name__ == "__main__":
    if "--data.micro-batch-pairs" not in sys.argv:
        torch.empty(2**60, dtype=torch.uint8)  # more than there is
    recipe_command(VARIANTS, about="needs too much memory unless it accumulates")
"""


@pytest.mark.slow
def test_a_point_that_runs_out_of_memory_accumulates_more(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "hungry.py").write_text(HUNGRY)
    sweep = write_sweep(tmp_path, '{"a": Row()}')
    Path(sweep).write_text(Path(sweep).read_text().replace("recipes/mars.py", str(tmp_path / "hungry.py")))
    words = [sweep, "--eager", *world.overrides(tmp_path / "runs", max_steps=1)]
    assert main(words) == 0, capsys.readouterr().out
    told = capsys.readouterr().out
    assert "a, seed 1 ...\na, seed 1, micro-batches of 16 pairs ...\n" in told
    assert "run here, micro-batches of 16 pairs" in told and "1 point: 1 finished" in told
    (config,) = (tmp_path / "runs").glob("mars/*/config.json")
    assert json.loads(config.read_text())["run"]["data"]["micro_batch_pairs"] == 16
    record = read_record(config.parent)
    assert record is not None and record.micro_batch_pairs == 16


def test_rows_are_written_for_the_table_of_results(tmp_path: Path) -> None:
    row = TableRow(table="Small", row="good", place=1, benchmark="cuhk-pedes", published={"rank_1": 70.0})
    write_row(tmp_path, row)
    write_row(tmp_path, replace(row, table="Other"))
    write_row(tmp_path, replace(row, place=0))
    assert read_rows(tmp_path) == [replace(row, table="Other"), replace(row, place=0)]
    (tmp_path / "rows.json").write_text(json.dumps([{"table": 1}]))
    with pytest.raises(ValueError, match=r"rows\.json cannot be read .* the same launch\.sweep writes it again"):
        read_rows(tmp_path)
