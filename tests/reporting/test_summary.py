"""`tbps results`: which runs are one line, what stands beside it, and the four formats."""

from __future__ import annotations

import csv
import io
import json
import statistics
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from filled_run import provenance, rank_noisy_features, small_run, write_people

from tbps.command import main
from tbps.config.methods.aga import Aga
from tbps.config.methods.method import MethodConfig
from tbps.config.run import Run
from tbps.config.serialise import to_json
from tbps.reporting.published import published_for
from tbps.reporting.results import make_results, write_results
from tbps.reporting.summary import Line, read_summary
from tbps.reporting.summary_formats import FORMATS
from tbps.reporting.table_rows import TableRow, write_row

FIGURES = {"rank_1": 77.62, "rank_5": 90.63, "rank_10": 94.27, "mAP": 71.41}
HOSTILE = 'a|b <script>alert(1)</script> "c",\nd [bold]e'


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of a final evaluation, on a test split that nobody has published on."""
    return make_results(rank_noisy_features(write_people(tmp_path_factory.mktemp("people"))), provenance())


def on_the_published_split(results: dict[str, Any], benchmark: str = "cuhk-pedes") -> dict[str, Any]:
    """The same, as if the split were the whole one."""
    sizes = {"cuhk-pedes": (6_156, 3_074), "icfg-pedes": (19_848, 19_848)}
    captions, images = sizes[benchmark]
    figures, _ = published_for(benchmark, "test", num_captions=captions, num_images=images)
    published = {"published": [asdict(figure) for figure in figures], "no_published_because": ""}
    return {**results, **published, "benchmark": benchmark, "size": {**results["size"], "captions": captions}}


def with_rank_1(results: dict[str, Any], rank_1: float) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(results))
    changed["text_to_image"]["reranked"]["rank_1"] = rank_1
    return changed


def write_run(
    runs: Path, name: str, results: dict[str, Any], *, seed: int = 42, lr: float = 1e-5, method: MethodConfig | None = None
) -> Path:
    """A run folder with its results."""
    run: Run = small_run()
    run = replace(run, name=name, loop=replace(run.loop, seed=seed), optim=replace(run.optim, lr=lr))
    run = run if method is None else replace(run, method=method)
    folder = runs / run.recipe / name
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"run": to_json(run)}))
    write_results(folder, results)
    return folder


def test_seeds_are_one_line_and_other_settings_another(tmp_path: Path, scored: dict[str, Any]) -> None:
    values = {1: 60.0, 2: 64.0, 3: 71.0}
    for seed, rank_1 in values.items():
        write_run(tmp_path, f"seed {seed}", with_rank_1(scored, rank_1), seed=seed)
    write_run(tmp_path, "other", scored, lr=1e-4)
    seeds, other = sorted(read_summary(tmp_path), key=lambda line: -len(line.seeds))
    assert seeds.seeds == (1, 2, 3) and other.seeds == (42,)
    assert seeds.metrics["rank_1"].mean == pytest.approx(65)
    assert seeds.metrics["rank_1"].std == pytest.approx(statistics.stdev(values.values()))
    assert str(seeds.metrics["rank_1"]) == "65.00 +- 5.57"
    assert other.metrics["rank_1"].std is None
    assert str(other.metrics["mAP"]) == f"{scored['text_to_image']['reranked']['mAP']:.2f}"
    assert (seeds.label, other.label) == ("mars/seed 1 and 2 more", "mars/other")


def test_a_repeated_seed_counts_once_and_the_newest(tmp_path: Path, scored: dict[str, Any]) -> None:
    write_run(tmp_path, "b", {**with_rank_1(scored, 10.0), "date": "2026-01-01T00:00:00+00:00"}, seed=1)
    write_run(tmp_path, "a", {**with_rank_1(scored, 20.0), "date": "2026-01-02T00:00:00+00:00"}, seed=1)
    write_run(tmp_path, "c", with_rank_1(scored, 30.0), seed=2)
    (line,) = read_summary(tmp_path)
    assert line.seeds == (1, 2) and line.metrics["rank_1"].mean == 25.0


def test_other_rankings_and_splits_are_not_averaged(tmp_path: Path, scored: dict[str, Any]) -> None:
    similarity = json.loads(json.dumps(scored))
    similarity["text_to_image"]["reranked"] = None
    write_run(tmp_path, "a", scored, seed=1)
    write_run(tmp_path, "b", similarity, seed=2)
    folder = write_run(tmp_path, "c", {**scored, "benchmark": "rstpreid", "purpose": "cross-set"}, seed=3)
    write_results(folder, {**scored, "split": "val", "purpose": "validation"})
    write_results(folder, {**with_rank_1(scored, 99.0), "purpose": "trial", "date": "2999-01-01T00:00:00+00:00"})
    lines = read_summary(tmp_path)
    assert {line.rule for line in lines} == {"re-ranked k=8, tail by similarity", "similarity"}
    assert sorted(line.benchmark for line in lines) == ["cuhk-pedes", "cuhk-pedes", "cuhk-pedes to rstpreid"]


def test_published_figures_stand_beside_the_same_split_only(tmp_path: Path, scored: dict[str, Any]) -> None:
    write_run(tmp_path, "small", scored)
    write_run(tmp_path, "whole", on_the_published_split(scored), lr=1e-4)
    small, whole = read_summary(tmp_path)
    assert (small.published, small.published_by) == ({}, "")
    assert (whole.published, whole.published_by) == (FIGURES, "MARS paper")


def test_rows_of_tables_come_first_in_their_order(tmp_path: Path, scored: dict[str, Any]) -> None:
    row = TableRow(table="table 2", row="A5", place=1, benchmark="cuhk-pedes", published={**FIGURES, "rank_1": 77.06})
    for seed in (1, 2):
        a5 = write_run(tmp_path, f"a5 {seed}", on_the_published_split(scored), seed=seed)
        write_row(a5, row)
        write_row(a5, replace(row, table="table 3", place=0, benchmark="icfg-pedes", published={**FIGURES, "rank_1": 50.62}))
        write_results(a5, {**on_the_published_split(scored, "icfg-pedes"), "purpose": "cross-set"})
    write_row(write_run(tmp_path, "z1", scored, lr=1e-4), replace(row, row="A1", place=0))
    write_run(tmp_path, "another", scored, lr=1e-3)
    lines = read_summary(tmp_path)
    assert [(line.table, line.label, len(line.seeds)) for line in lines] == [
        ("table 2", "A1", 1),
        ("table 2", "A5", 2),
        ("table 3", "A5", 2),
        ("runs", "mars/another", 1),
    ]
    assert [line.published.get("rank_1") for line in lines] == [None, 77.06, 50.62, None]
    assert lines[2].benchmark == "cuhk-pedes to icfg-pedes"


def test_what_cannot_be_read_has_a_line_and_hides_nothing(
    tmp_path: Path, scored: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "whole", scored)
    lacking = {name: value for name, value in scored.items() if name != "date"}
    spoiled = {
        "config": ("config.json", '{"run": {'),
        "version": ("config.json", '{"run": {"recipe": "mars"}}'),
        "rows": ("rows.json", "{"),
        "half": ("results/final-cuhk-pedes-test.json", json.dumps(scored)[:-9]),
        "format": ("results/final-cuhk-pedes-test.json", json.dumps({**scored, "format": 99})),
        "lacking": ("results/final-cuhk-pedes-test.json", json.dumps(lacking)),
        "odd": ("results/final-cuhk-pedes-test.json", json.dumps({**scored, "purpose": "x"})),
    }
    for name, (file, text) in spoiled.items():
        (write_run(tmp_path, name, scored, lr=1e-4) / file).write_text(text)
    lines = {line.label: line for line in read_summary(tmp_path)}
    assert set(lines) == {"mars/whole", *(f"mars/{name}" for name in spoiled)}
    assert not lines["mars/whole"].problem and lines["mars/whole"].metrics
    for name, (file, _) in spoiled.items():
        assert str(tmp_path / "mars" / name / file) in lines[f"mars/{name}"].problem
    assert "was written by another version" in lines["mars/version"].problem
    for form in FORMATS:
        assert main(["results", str(tmp_path), "--format", form]) == 0
        told = "".join(capsys.readouterr().out.split())
        assert "formatis99" not in told and "hasformat99,expected1" in told, form
    (problem,) = [
        row for row in csv.DictReader(io.StringIO(FORMATS["csv"](list(lines.values())))) if row["run"] == "mars/odd"
    ]
    assert problem["rank_1_mean"] == "" and "is not whole" in problem["problem"]


def test_where_nothing_is_scored_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(tmp_path)]) == 2
    assert "holds 0 runs and no results; give the folder of <recipe>/<name>/results" in capsys.readouterr().err


# -- formats -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(tmp_path: Path, scored: dict[str, Any]) -> list[Line]:
    """One row with a hostile name and two seeds, one run."""
    for seed in (1, 2):
        run = write_run(tmp_path, f"hostile {seed}", with_rank_1(on_the_published_split(scored), 60.0 + 4 * seed), seed=seed)
        row = TableRow(table=HOSTILE, row=HOSTILE, place=0, benchmark="cuhk-pedes", published=FIGURES)
        write_row(run, row)
    write_run(tmp_path, "plain", scored, lr=1e-4)
    return read_summary(tmp_path)


def test_table(lines: list[Line]) -> None:
    text = FORMATS["table"](lines)
    assert "66.00 +- 2.83" in text and "77.62 / 71.41" in text
    assert text.count("[bold]e") == 3, "in the title, as the run and as the source"
    assert "sample standard deviation over seeds" in text


def test_markdown_stays_a_table(lines: list[Line]) -> None:
    rows = [line for line in FORMATS["markdown"](lines).splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {12}
    assert "<script>" not in "".join(rows)
    assert "66.00 +- 2.83" in rows[2]


def test_csv_has_every_number(lines: list[Line]) -> None:
    first, second = csv.DictReader(io.StringIO(FORMATS["csv"](lines)))
    assert first["run"] == HOSTILE and first["seeds"] == "1 2"
    assert (float(first["rank_1_mean"]), float(first["rank_1_std"])) == (66.0, pytest.approx(2.8284))
    assert first["published_rank_5"] == "90.63"
    assert second["run"] == "mars/plain" and second["rank_1_std"] == "" and second["published_mAP"] == ""


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["td"]:
            self.cells.append(data)


def test_html_shows_names_as_they_are(lines: list[Line]) -> None:
    page = _Page()
    page.feed(FORMATS["html"](lines))
    assert "script" not in page.tags and page.tags.count("table") == 2
    assert HOSTILE in page.cells and "66.00 +- 2.83" in page.cells


def test_the_command_prints_each_format(tmp_path: Path, scored: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "plain", scored)
    for name, form in FORMATS.items():
        assert main(["results", str(tmp_path), "--format", name]) == 0
        assert capsys.readouterr().out == form(read_summary(tmp_path))


def test_a_number_that_a_method_wants_shown_stands_in_the_table(tmp_path: Path, scored: dict[str, Any]) -> None:
    for seed, shares in ((1, (0.1, 0.2)), (2, (0.25, 0.3))):
        folder = write_run(tmp_path, f"aga {seed}", scored, seed=seed, method=Aga())
        lines = [{"step": step, "masked_ratio": share} for step, share in enumerate(shares, start=1)]
        lines.append({"step": 2, "split": "test", "rank_1": 3.0})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo')
    assert "masked words, %" in FORMATS["table"](read_summary(tmp_path))
    mars_log = write_run(tmp_path, "mars", scored, lr=1e-4) / "metrics.jsonl"
    mars_log.write_text('{"step": 1, "masked_ratio": 0.5}\n')  # nobody asks for it
    aga, mars = sorted(read_summary(tmp_path), key=lambda line: -len(line.seeds))
    assert ({name: str(value) for name, value in aga.numbers.items()}, mars.numbers) == (
        {"masked words, %": "21.25 +- 8.84"},
        {},
    )
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"]([aga, mars]))))
    assert [row["masked words, %"] for row in rows] == ["21.2500", ""]
    assert FORMATS["markdown"]([aga, mars]).count("21.25 +- 8.84 |") == FORMATS["html"]([aga, mars]).count("21.25 +- ") == 1
    assert "masked words, %" not in FORMATS["table"]([mars])


def test_a_long_log_is_read_from_its_end(tmp_path: Path, scored: dict[str, Any]) -> None:
    folder = write_run(tmp_path, "aga", scored, method=Aga())
    lines = [{"step": 1, "masked_ratio": share, "fill": "x" * 1000} for share in (0.9, 0.15)]
    early, late = (json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(early * 1000 + late * 300)
    (line,) = read_summary(tmp_path)
    assert {name: str(value) for name, value in line.numbers.items()} == {"masked words, %": "15.00"}
