import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from filled_run import provenance, rank_noisy_features, write_people
from rich.console import Console
from rich.table import Table

from tbps.evaluation.ranking_order import Rule
from tbps.reporting.published import PUBLISHED, TEST_SIZE, published_for
from tbps.reporting.results import device_name, final_metrics, make_results, read_results, rule_in_words, write_results
from tbps.reporting.tables import evaluation_table, results_table


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    evaluation_set = write_people(tmp_path_factory.mktemp("people"))
    return make_results(rank_noisy_features(evaluation_set), provenance())


def text_of(table: Table) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_results_name_everything_needed_to_make_them_again(results: dict[str, Any]) -> None:
    direction = results["text_to_image"]
    assert direction["coarse"]["rule"] == {"rerank_k": 0, "itc_weight": 1.0}
    assert direction["reranked"]["rule"] == {"rerank_k": 8, "tail": "similarity", "itc_weight": 0.0}
    assert results["image_to_text"]["reranked"] is None
    assert results["size"] == {"captions": 180, "images": 90, "identities": 30, "cut_captions": 3}
    assert results["ties"] == "descending, equal values by ascending gallery index"
    assert direction["chance"]["rank_1"] == pytest.approx(100 / 30)
    named = {"benchmark", "split", "purpose", "config_hash", "weights_sha256", "step", "device", "date", "versions"}
    assert named <= set(results)
    assert results["versions"]["torch"] == torch.__version__.split("+")[0]
    assert final_metrics(results) == direction["reranked"]


def test_results_come_back_from_the_run_folder_final_first(tmp_path: Path, results: dict[str, Any]) -> None:
    zero_shot = {**results, "purpose": "zero-shot", "benchmark": "icfg-pedes"}
    assert write_results(tmp_path, zero_shot).name == "zero-shot-icfg-pedes-test.json"
    write_results(tmp_path, results)
    assert read_results(tmp_path) == [json.loads(json.dumps(results)), json.loads(json.dumps(zero_shot))]


def test_a_sum_of_matching_and_similarity_is_a_rule_of_its_own(tmp_path: Path) -> None:
    evaluated = rank_noisy_features(write_people(tmp_path), rule=Rule(score="sum", similarity_weight=0.5, tail="index"))
    results = make_results(evaluated, provenance(purpose="trial"))
    reranked = results["text_to_image"]["reranked"]
    assert reranked["rule"] == {"rerank_k": 8, "tail": "index", "itc_weight": 0.5}
    assert rule_in_words(reranked) == "re-ranked k=8, matching + 0.5 similarity, tail by index"
    assert write_results(tmp_path, results).name == "trial-cuhk-pedes-test-k8-tail-index-similarity-0.5-00004000.json"


def by_rule(results: dict[str, Any], rerank_k: int, **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy({**results, **changes})
    changed["text_to_image"]["reranked"]["rule"]["rerank_k"] = rerank_k
    return changed


def test_a_trial_has_a_name_of_its_own_and_leaves_the_final_result(tmp_path: Path, results: dict[str, Any]) -> None:
    final = write_results(tmp_path, results)
    before = final.read_bytes()
    trial = {"purpose": "trial", "weights": "step-00000500"}
    similarity = copy.deepcopy({**results, **trial})
    similarity["text_to_image"]["reranked"] = None
    names = [
        write_results(tmp_path, by_rule(results, 7, **trial)).name,
        write_results(tmp_path, similarity).name,
        write_results(tmp_path, by_rule(results, 7, **trial, date="later")).name,
        write_results(tmp_path, by_rule(results, 7, **trial, size={**results["size"], "captions": 6})).name,
        write_results(tmp_path, by_rule(results, 7, **trial, size={**results["size"], "captions": 6})).name,
    ]
    assert names == [
        "trial-cuhk-pedes-test-k7-tail-similarity-step-00000500.json",
        "trial-cuhk-pedes-test-k0-step-00000500.json",
        "trial-cuhk-pedes-test-k7-tail-similarity-step-00000500.json",
        "trial-cuhk-pedes-test-k7-tail-similarity-step-00000500-2.json",
        "trial-cuhk-pedes-test-k7-tail-similarity-step-00000500-2.json",
    ]
    assert final.read_bytes() == before
    assert [found["purpose"] for found in read_results(tmp_path)] == ["final", "trial", "trial", "trial"]


def test_a_final_result_of_other_weights_becomes_a_trial(
    tmp_path: Path, results: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Training began anew in a folder where results were left."""
    write_results(tmp_path, results)
    again = {**results, "weights_sha256": "cd" * 32}
    assert write_results(tmp_path, again).name == "final-cuhk-pedes-test.json"
    assert "was of other weights (checkpoints/00004000): it is kept as trial-cuhk-pedes-test-k8-tail" in caplog.text
    assert [found["weights_sha256"] for found in read_results(tmp_path)] == ["cd" * 32, "ab" * 32]
    (tmp_path / "results/final-cuhk-pedes-test.json").write_text("{")
    write_results(tmp_path, again)
    assert "replaced: results file" in caplog.text and read_results(tmp_path)[0]["weights_sha256"] == "cd" * 32


def test_a_damaged_or_foreign_results_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    file = tmp_path / "results" / "final.json"
    file.write_text("{")
    with pytest.raises(ValueError, match=r"results file .*final\.json cannot be read: .*; remove it or evaluate again"):
        read_results(tmp_path)
    file.write_text('{"format": 7}')
    with pytest.raises(ValueError, match=r"final\.json has format 7, expected 1; remove it or evaluate again"):
        read_results(tmp_path)
    file.write_text("[]")
    with pytest.raises(ValueError, match=r"final\.json has format list, expected 1"):
        read_results(tmp_path)


def test_figures_are_given_for_the_whole_published_test_split_only() -> None:
    figures, reason = published_for("rstpreid", "test", num_captions=2_000, num_images=1_000)
    assert reason == ""
    assert {figure.benchmark for figure in figures} == {"rstpreid"}
    assert {"MARS", "RaSa", "ALBEF"} <= {figure.system for figure in figures}
    assert published_for("rstpreid", "val", num_captions=2_000, num_images=1_000) == (
        (),
        "published figures are for the test split, this is val",
    )
    assert published_for("rstpreid", "test", num_captions=1_999, num_images=1_000) == (
        (),
        "published figures are for 2000 captions and 1000 images, this split has 1999 and 1000",
    )
    assert published_for("mals", "train", num_captions=1, num_images=1) == ((), "no figures are published for mals")


def test_published_figures_are_sound() -> None:
    assert len(PUBLISHED) == 11 * 3 + 2 * 2 + 1
    assert len({(figure.system, figure.benchmark) for figure in PUBLISHED}) == len(PUBLISHED)
    for figure in PUBLISHED:
        assert 0 < figure.mAP < figure.rank_1 < figure.rank_5 < figure.rank_10 < 100
        assert figure.benchmark in TEST_SIZE
        assert figure.source
    mars = next(figure for figure in PUBLISHED if (figure.system, figure.benchmark) == ("MARS", "icfg-pedes"))
    assert (mars.rank_1, mars.rank_5, mars.rank_10, mars.mAP) == (67.60, 81.47, 85.79, 44.93)
    baseline = {figure.benchmark: figure for figure in PUBLISHED if figure.system == "ALBEF, LAIP's baseline"}
    assert baseline["cuhk-pedes"].mAP == 54.41 and baseline["icfg-pedes"].rank_1 == 44.36


def test_table_shows_both_directions_and_why_there_is_nothing_to_compare_with(results: dict[str, Any]) -> None:
    text = text_of(evaluation_table(results))
    assert f"{results['text_to_image']['reranked']['mAP']:.2f}" in text
    assert "text to image, re-ranked k=8, tail by similarity" in text
    assert "image to text, chance" in text
    assert "3 captions were cut at the cap of words or tokens" in text
    assert "this split has 180 and 90" in text.replace("\n", " ")


def test_table_shows_published_figures_and_unmatched_captions(results: dict[str, Any]) -> None:
    figures, _ = published_for("cuhk-pedes", "test", num_captions=6_156, num_images=3_074)
    whole = copy.deepcopy(results)
    whole |= {"published": [asdict(figure) for figure in figures], "no_published_because": ""}
    whole["text_to_image"]["coarse"]["num_without_match"] = 5
    text = text_of(evaluation_table(whole))
    line = next(line for line in text.splitlines() if "BAMG" in line)
    assert [cell.strip() for cell in line.split("\u2502")[2:7]] == ["79.98", "92.31", "94.03", "68.55", "-"]
    told = "5 captions have no image of their identity in the gallery: misses in rank_k, left out of mAP and mINP"
    assert told in " ".join(text.split())
    assert "published figures" not in text


def test_summary_has_a_line_for_each_evaluation(results: dict[str, Any]) -> None:
    text = text_of(results_table([("zero-shot", results), ("fine-tuned", results)], title="Demo"))
    rankings = [results["text_to_image"][name] for name in ("coarse", "reranked", "chance")]
    numbers = [f"{metrics['rank_1']:.2f} / {metrics['mAP']:.2f}" for metrics in rankings]
    for label in ("zero-shot", "fine-tuned"):
        line = next(line for line in text.splitlines() if label in line)
        assert [cell.strip() for cell in line.split("\u2502")[2:5]] == numbers


def test_device_is_named_in_words() -> None:
    assert device_name(torch.device("cpu")).startswith("cpu (")
