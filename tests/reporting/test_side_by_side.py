"""Two runs side by side: the same captions, each with what its own run found; runs that cannot be compared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from filled_run import fill_run, provenance, rank_noisy_features, write_people

from tbps.command import main
from tbps.reporting.gallery import write_queries
from tbps.reporting.report import write_report
from tbps.reporting.results import make_results, write_results
from tbps.reporting.side_by_side import SHOWN_RANKS, side_by_side

TITLE = "Two runs side by side"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs on one split: the second one's features are noisier."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("first", "other"):
        fill_run(folder / name)
    evaluation_set = write_people(folder / "data")
    evaluated = rank_noisy_features(evaluation_set, noise=9.0)
    file = write_results(folder / "other", make_results(evaluated, provenance()))
    write_queries(folder / "other", file.stem, evaluated, evaluation_set)
    config = json.loads((folder / "other/config.json").read_text())
    config["run"]["name"] = "noisier"
    (folder / "other/config.json").write_text(json.dumps(config))
    return folder / "first", folder / "other"


def test_both_show_what_their_own_run_found_for_the_same_captions(runs: tuple[Path, Path]) -> None:
    found = side_by_side(*runs)
    assert found.evaluation == "final-cuhk-pedes-test" and len(found.captions) == 6
    files = [json.loads((run / f"report/queries-{found.evaluation}.json").read_text()) for run in runs]
    assert len({one.query["key"] for one, _ in found.captions}) == 6
    for pair in found.captions:
        assert pair[0].query["caption"] == pair[1].query["caption"]
        for one, file in zip(pair, files, strict=True):
            whole = next(query for query in file["compared"] if query["key"] == one.query["key"])
            assert one.query["found"] == whole["found"][:SHOWN_RANKS] and len(one.query["found"]) == SHOWN_RANKS
            assert {image["image"] for image in one.query["found"]} <= one.pictures.keys()
    assert any(one.query["found"] != other.query["found"] for one, other in found.captions)
    assert [one.run.split("/")[1] for one in found.captions[0]][1] == "noisier"


def test_the_report_has_the_chapter_where_a_second_run_is_named(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs[0]), "--beside", str(runs[1])]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    chapter = page.partition(TITLE)[2].partition("<h2>")[0]
    assert chapter.count("<figure") == 6 * 2 * SHOWN_RANKS and chapter.count("noisier") == 6
    assert len(re.findall(r'class="right"', chapter)) + len(re.findall(r'class="wrong"', chapter)) == 6 * 2 * SHOWN_RANKS
    assert TITLE not in write_report(runs[0]).read_text(encoding="utf-8")


def test_runs_without_an_evaluation_in_common_are_refused(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_run(tmp_path / "run")
    (tmp_path / "run/report/queries-final-cuhk-pedes-test.json").unlink()
    assert main(["report", str(runs[0]), "--beside", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "its evaluations are none, expected one of" in said and "final-cuhk-pedes-test" in said
    (tmp_path / "run/report/queries-final-cuhk-pedes-test.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot be read: .*; remove it or evaluate again"):
        side_by_side(runs[0], tmp_path / "run")
    with pytest.raises(ValueError, match=r"config\.json"):
        side_by_side(runs[0], tmp_path)
