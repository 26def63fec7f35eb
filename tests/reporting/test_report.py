import html
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
from filled_run import HOSTILE, LOSSES, fill_run, write_log

from tbps.reporting.published import published_for
from tbps.reporting.report import write_report


class Page(HTMLParser):
    """Tags with their attributes, and the text between them, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mars"
    fill_run(folder, hostile=True)
    return folder


@pytest.fixture(scope="module")
def page(run_folder: Path) -> Page:
    return Page(write_report(run_folder).read_text(encoding="utf-8"))


def test_the_file_stands_alone(page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "a"}
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(sources) > 100
    assert all(source.startswith("data:image/jpeg;base64,/9j/") for source in sources)
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("href", "srcset", "background") for name in attributes)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "url(" not in page.words()


def test_captions_paths_and_names_are_text_whatever_they_hold(run_folder: Path, page: Page) -> None:
    source = (run_folder / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in source
    assert "alert(1)" in source
    assert html.escape(HOSTILE, quote=False).split("&amp;")[0].split(" ")[0] in source
    shown = [text for text in page.text if text == HOSTILE]
    # 3 reconstructions and at least one searched caption.
    assert len(shown) > 3
    assert 'mars / first <b>"run"<b>' in page.text
    assert "b" not in {tag for tag, attributes in page.tags if attributes}
    titles = [attributes["title"] for tag, attributes in page.tags if tag == "img" and "title" in attributes]
    assert titles
    assert all(re.fullmatch(r"cam_a/\d{3}'\d\.jpg, identity \d+", title or "") for title in titles)


def test_numbers_are_those_of_the_results(run_folder: Path, page: Page) -> None:
    words = page.words()
    results = json.loads((run_folder / "results" / "final-cuhk-pedes-test.json").read_text())
    direction = results["text_to_image"]
    for metrics in (direction["coarse"], direction["reranked"], direction["chance"], results["image_to_text"]["coarse"]):
        assert " ".join(f"{metrics[name]:.2f}" for name in ("rank_1", "rank_5", "rank_10", "mAP", "mINP")) in words
    assert "re-ranked k=8, tail by similarity" in words
    assert "published figures are for 6156 captions and 3074 images, this split has 180 and 90" in words
    assert "3 captions were cut at the cap of words or tokens" in words
    assert "zero-shot: rstpreid test" in words
    assert "ab" * 32 in words


def test_published_figures_stand_beside_ours_on_the_whole_test_split(tmp_path: Path) -> None:
    fill_run(tmp_path / "run")
    file = tmp_path / "run" / "results" / "final-cuhk-pedes-test.json"
    results = json.loads(file.read_text())
    figures, _ = published_for("cuhk-pedes", "test", num_captions=6_156, num_images=3_074)
    results |= {"published": [asdict(figure) for figure in figures], "no_published_because": ""}
    results["text_to_image"]["coarse"]["num_without_match"] = 4
    file.write_text(json.dumps(results))
    words = Page(write_report(tmp_path / "run").read_text(encoding="utf-8")).words()
    assert "MARS MARS paper 77.62 90.63 94.27 71.41 -" in words
    assert "4 captions have no image of their identity in the gallery: misses in rank_k" in words
    assert "published figures are for 6156" not in words


def test_every_loss_has_a_chart_and_validation_one_with_all_metrics(page: Page) -> None:
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    expected = ["val", "all losses, weighted sum", *sorted(LOSSES), "lr", "pairs_per_s"]
    assert labels == [f"{name} over steps" for name in expected]
    lines = [attributes["points"] or "" for tag, attributes in page.tags if tag == "polyline"]
    assert len(lines) == 5 + 1 + len(LOSSES) + 2
    assert all(re.fullmatch(r"(\d+(\.\d+)?,\d+(\.\d+)? ?)+", line) for line in lines)


def test_frames_tell_right_from_wrong(run_folder: Path, page: Page) -> None:
    content = json.loads((run_folder / "report" / "queries-final-cuhk-pedes-test.json").read_text())
    found = [image for group in content["groups"] for query in group["queries"] for image in query["found"]]
    classes = [a.get("class") for tag, a in page.tags if tag == "figure" and a.get("class") in ("right", "wrong")]
    assert classes == ["right" if image["right"] else "wrong" for image in found]
    assert 0 < classes.count("right") < len(classes) == 120


def test_parts_that_are_missing_are_named(tmp_path: Path) -> None:
    fill_run(tmp_path / "run")
    for file in [*(tmp_path / "run" / "report").iterdir(), *(tmp_path / "run" / "results").iterdir()]:
        file.unlink()
    (tmp_path / "run" / "metrics.jsonl").unlink()
    words = Page(write_report(tmp_path / "run").read_text(encoding="utf-8")).words()
    assert "This run has no final evaluation yet." in words
    assert "There is no training log in this folder." in words
    assert "What it finds" not in words
    assert "Masked image modelling" not in words


def test_the_signature_of_a_root_is_left_out(tmp_path: Path) -> None:
    fill_run(tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["run"]["data"]["root"] = "https://me:password@host/shards?sig=secret"
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "https://host/shards?..." in text and "secret" not in text and "password" not in text


def test_lines_cut_off_by_a_kill_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill_run(tmp_path / "run")
    write_log(tmp_path / "run" / "metrics.jsonl", steps=100)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 110, "lo\n')
    words = Page(write_report(tmp_path / "run").read_text(encoding="utf-8")).words()
    assert "1 lines of metrics.jsonl could not be read and are left out" in words
    assert "1 lines are no JSON object and are left out" in caplog.text


def test_a_folder_that_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json cannot be read .* expected the config of a run"):
        write_report(tmp_path)


def test_a_damaged_queries_file_is_named(tmp_path: Path) -> None:
    fill_run(tmp_path / "run")
    file = tmp_path / "run" / "report" / "queries-final-cuhk-pedes-test.json"
    file.write_text("{")
    with pytest.raises(ValueError, match=r"queries-final-cuhk-pedes-test\.json cannot be read: .*; remove it or evaluate"):
        write_report(tmp_path / "run")
