"""Every recipe: its help, what it says to a wrong word, and its small twin from the first step to the report."""

from __future__ import annotations

import importlib
import json
import logging
import resource
import sys
from pathlib import Path

import pytest
import torch
from small_world import RECIPES, World, assert_one_sentence, call, call_anew, metrics, run_recipe

from tbps.command import main
from tbps.runs.checkpoint import read_tensors

HELP_S = 0.5
VARIANTS = [(recipe, variant) for recipe in RECIPES for variant in importlib.import_module(f"recipes.{recipe}").VARIANTS]
ALBEF_FAMILY = [(recipe, variant) for recipe, variant in VARIANTS if not variant.endswith(("aptm", "irra"))]
"""What has a queue and BERT; help of the other two is tried in test_pretrain_mals.py."""


@pytest.mark.parametrize(("recipe", "variant"), ALBEF_FAMILY)
def test_help_lists_the_settings(recipe: str, variant: str) -> None:
    done = call(sys.executable, f"recipes/{recipe}.py", variant, "--help")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.startswith(f"usage: {recipe}.py {variant} [--part.field VALUE ...]")
    for setting in ("--data.batch-pairs", "--method.queue-pairs", "--method.bert.width", "--optim.lr", "--start.weights"):
        assert f"\n  {setting} " in done.stdout
    assert "Pairs of one optimiser step over all processes." in done.stdout


@pytest.mark.parametrize(("recipe", "variant"), [("mars", "cuhk-pedes"), ("pretrain_mals", "tiny")])
def test_help_is_quick(recipe: str, variant: str) -> None:
    """In processor time of a process that a shell starts; the best of three."""
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert call_anew(sys.executable, f"recipes/{recipe}.py", variant, "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if seconds < HELP_S:
            break
    assert 0 < seconds < HELP_S


def test_without_a_variant_the_label_is_printed() -> None:
    for words, status in (((), 2), (("--help",), 0)):
        done = call(sys.executable, "recipes/mars.py", *words)
        assert done.returncode == status
        assert "Paper    Table 1: CUHK-PEDES rank-1 77.62 / mAP 71.41" in done.stdout
        assert "usage: mars.py {cuhk-pedes,icfg-pedes,rstpreid,tiny}" in done.stdout


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("tinny", ["found variant 'tinny', expected one of cuhk-pedes, icfg-pedes, rstpreid, tiny"]),
        ("tiny --loop.log-steps 0", ["tiny: loop.log_steps is 0, expected at least 1; ", "--help lists every setting"]),
        ("tiny --data.rot x", ["Unrecognized options: --data.rot, x (perhaps --data.root", "--help lists every setting"]),
        ("tiny cuhk", ["Unrecognized options: cuhk"]),
        ("tiny --data.root", ["Missing value for argument '--data.root'"]),
        ("tiny --data.batch-pairs x", ["Error parsing --data.batch-pairs", "'x'"]),
        ("tiny --data.batch-pairs 7", ["data.batch_pairs is 7, expected a multiple of data.group_pairs (16)"]),
        ("tiny --data.augmentations flop", ["'flop'", "--data.augmentations", "resized-crop", "pad-crop"]),
        ("tiny --data.augmentations erase flip", ["data.augmentations is erase flip", "are made: flip erase"]),
        ("tiny --loop.wandb", ["Missing value for argument '--loop.wandb'"]),
    ],
)
@pytest.mark.parametrize("recipe", ["mars", "albef"])
def test_a_wrong_word_gets_one_sentence(
    recipe: str, words: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_recipe(recipe, *words.split()) == 2
    assert_one_sentence(capsys.readouterr().err, *parts)


def test_a_wrong_word_ends_the_process_with_status_2() -> None:
    done = call(sys.executable, "recipes/rasa.py", "tiny", "--data.bach-pairs", "3")
    assert done.returncode == 2
    assert_one_sentence(done.stderr, "rasa.py tiny: Unrecognized options: --data.bach-pairs, 3 (perhaps --data.batch-pairs")


def _files(run_folder: Path) -> dict[str, bytes]:
    """Everything but the report page and the lock."""
    files = (file for file in run_folder.rglob("*") if file.is_file() and file.name not in ("lock", "report.html"))
    return {str(file.relative_to(run_folder)): file.read_bytes() for file in files}


def _check_results(run_folder: Path, recipe: str) -> None:
    benchmark = "coco" if recipe == "pretrain_coco" else "cuhk-pedes"
    results = json.loads((run_folder / f"results/final-{benchmark}-test.json").read_text())
    manifest = json.loads((run_folder / "checkpoints/step-00000003/manifest.json").read_text())
    assert (results["benchmark"], results["split"], results["purpose"]) == (benchmark, "test", "final")
    assert (results["recipe"], results["run"], results["step"]) == (recipe, "tiny", 3)
    assert results["config_hash"] == json.loads((run_folder / "config.json").read_text())["hash"]
    assert results["weights_sha256"] == manifest["files"]["model.safetensors"]["sha256"]
    assert results["ties"] == "descending, equal values by ascending gallery index"
    assert results["size"]["identities"] == 8 and {"torch", "tokenizers", "python"} <= results["versions"].keys()
    reranked = results["text_to_image"]["reranked"]
    assert reranked["rule"] == {"rerank_k": min(16, results["size"]["images"]), "tail": "similarity", "itc_weight": 0.0}
    for metrics_of in (reranked, results["text_to_image"]["coarse"], results["image_to_text"]["coarse"]):
        assert all(0 <= metrics_of[name] <= 100 for name in ("rank_1", "rank_5", "rank_10", "mAP", "mINP"))
    because = {"cuhk-pedes": "this split has 48 and 24", "coco": "no figures are published for coco"}
    assert results["published"] == [] and because[benchmark] in results["no_published_because"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_tiny_trains_evaluates_and_reports(
    recipe: str, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    words = ["tiny", *world.overrides(tmp_path, recipe=recipe)]
    run_folder = tmp_path / recipe / "tiny"
    assert run_recipe(recipe, *words) == 0
    lines = metrics(run_folder)
    assert [line["step"] for line in lines if "split" not in line] == [1, 2, 3]
    assert {"loss", "step", "epoch"} <= lines[0].keys()
    assert "32 of the queue's 32 places were empty in the first step and took " in caplog.text
    assert f"report: {run_folder}/report/report.html" in caplog.text
    page = (run_folder / "report/report.html").read_text()
    assert page.startswith("<!") and recipe in page
    if recipe != "pretrain_mals":  # MALS has no test split
        assert [line["split"] for line in lines[3:]] == ["val", "test"]
        _check_results(run_folder, recipe)
    before = _files(run_folder)
    caplog.clear()
    assert run_recipe(recipe, *words) == 0
    assert f"all 3 steps of {run_folder} are done, nothing is trained again" in caplog.text
    assert "step 3/3" not in caplog.text
    assert _files(run_folder) == before


TRAIN_ALONE = ("--evaluation.test", "False", "--evaluation.every-epochs", "0")


@pytest.fixture(scope="module", params=["aga", "laip"])
def plain(world: World, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A recipe and the folder of its run of three steps in float32."""
    recipe, runs = str(request.param), tmp_path_factory.mktemp("plain")
    assert run_recipe(recipe, "tiny", *world.overrides(runs, recipe=recipe), *TRAIN_ALONE) == 0
    return recipe, runs / recipe / "tiny"


@pytest.mark.slow
def test_activation_checkpointing_changes_no_loss(plain: tuple[str, Path], world: World, tmp_path: Path) -> None:
    recipe, folder = plain
    words = ["tiny", *world.overrides(tmp_path, recipe=recipe), *TRAIN_ALONE, "--loop.activation-checkpointing", "True"]
    assert run_recipe(recipe, *words) == 0
    lines = metrics(folder)[:3]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line, other in zip(metrics(tmp_path / recipe / "tiny")[:3], lines, strict=True):
        assert line == pytest.approx(other, rel=1e-5)


@pytest.mark.slow
def test_bfloat16_trains_float32_weights_to_the_report(plain: tuple[str, Path], world: World, tmp_path: Path) -> None:
    recipe, folder = plain
    words = ["tiny", *world.overrides(tmp_path, recipe=recipe), "--name", "bf16", "--loop.precision", "bf16"]
    done = call(sys.executable, f"recipes/{recipe}.py", *words)
    assert done.returncode == 0, done.stderr
    half, full = ([line["loss"] for line in metrics(run)[:3]] for run in (tmp_path / recipe / "bf16", folder))
    assert half[0] != full[0] and half == pytest.approx(full, rel=0.03)
    weights = read_tensors(tmp_path / recipe / "bf16/checkpoints/step-00000003/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}
    results = json.loads((tmp_path / recipe / "bf16/results/final-cuhk-pedes-test.json").read_text())
    assert results["precision"] == "bf16" and (tmp_path / recipe / "bf16/report/report.html").exists()


@pytest.mark.slow
def test_a_run_starts_from_another_run_of_other_images_and_says_that_captions_are_cut(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    words = [*world.overrides(tmp_path, max_steps=1), "--evaluation.test", "False"]
    assert run_recipe("mars", "tiny", *words) == 0
    assert "not read" not in caplog.text
    second = [*words, "--name", "wide", "--data.image-px", "64", "64", "--data.captioning.max-tokens", "12"]
    assert run_recipe("mars", "tiny", *second, "--start.weights", str(tmp_path / "mars" / "tiny")) == 0
    assert "3 position tables interpolated" in caplog.text  # the run's 8 x 4 patches to 8 x 8
    assert " are longer than 70 words or 12 tokens; their ends are not read" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["pretrain_mals", "pretrain_coco"])
def test_a_pretrained_run_is_scored_on_a_benchmark_and_fine_tuned_there(
    recipe: str, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert run_recipe(recipe, "tiny", *world.overrides(tmp_path, recipe=recipe, max_steps=1)) == 0
    run_folder = tmp_path / recipe / "tiny"
    assert main(["evaluate", str(run_folder), "--on", "cuhk-pedes", "--root", str(world.cuhk_pedes)]) == 0
    assert (run_folder / "results/zero-shot-cuhk-pedes-test.json").exists()
    words = [*world.overrides(tmp_path, max_steps=1), "--evaluation.test", "False", "--start.weights", str(run_folder)]
    assert run_recipe("albef", "tiny", *words) == 0
    assert f"starting from {run_folder}" in caplog.text
